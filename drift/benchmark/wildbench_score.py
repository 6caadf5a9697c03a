"""WB-Score: WildBench's replies, each graded from 1 to 10 by a judge that sees the task's checklist.

The mean of (grade - 5) × 2 in each of five task groups, weighted by group and shown × 10, as on the published board. Empty and
cut-off replies count in the plain mean, but not in the groups. An answer of the judge that can't be read counts nowhere, so totals
differ between models."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drift.benchmark.judged import UNREAD, UNREAD_MEANS, Answer, Judged, Question, contents, fill, unread
from drift.benchmark.wildbench import (
    GROUPS,
    LICENCE,
    PLACEHOLDER,
    Graded,
    WildBenchTask,
    contributions,
    counts,
    json_answer,
    load_tasks,
    load_template,
    macro,
    shown,
)
from drift.errors import UserError
from drift.evaluation.metric import metric

TEMPLATE = "wildbench-score.txt"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The official figures. `score`: mean grade; `adjusted`: (score - 5) × 2; `groups`: task group -> mean of that; `macro`: their
    weighted mean; `length`: characters of the replies that are neither empty nor cut off."""

    score: float
    adjusted: float
    groups: dict[str, float]
    macro: float
    total: int
    length: float


@dataclass(frozen=True, kw_only=True)
class WildBenchScore:
    """`path`: the data set (a file, or the id of a hub data set in the local cache), `config`, `split`: see drift/intake/files.py.
    `template`: file with the question to the judge; null: ours."""

    path: str
    config: str | None
    split: str | None
    template: str | None

    title: ClassVar[str] = "WildBench (WB-Score)"
    licence: ClassVar[str] = LICENCE
    published_judge: ClassVar[str] = "gpt-4o-2024-05-13"
    judge_settings: ClassVar[dict[str, Any]] = {
        "temperature": 0, "max_tokens": 1024, "response_format": {"type": "json_object"}
    }  # fmt: skip
    headline: ClassVar[str] = "WB-Score"
    meanings: ClassVar[dict[str, str]] = {
        "WB-Score": "the judge's grades as (grade - 5) × 20, averaged by task group and weighted; from -80 to 100",
        **{f"WB-Score: {group}": f"the same for the tasks of the group {group}" for group in GROUPS},
        "grade": "mean of the judge's grades, from 1 to 10",
        "reply length": "mean number of characters of a reply that is not empty",
        UNREAD: UNREAD_MEANS,
    }

    def check(self) -> None:
        load_template(self.template, TEMPLATE, ("history", "user_query", "model_output", "checklist"))
        self.tasks()

    def key(self) -> dict[str, Any]:
        return {"tasks": contents(self.tasks()), "template": load_template(self.template, TEMPLATE, ())}

    def tasks(self) -> Sequence[WildBenchTask]:
        return load_tasks(self.path, self.config, self.split)

    def questions(self, task: WildBenchTask, replies: Sequence[str]) -> list[Question]:
        """An empty reply gets the lowest grade, without a question."""
        (reply,) = replies
        if not reply.strip():
            return [Question(key=task.key, part="score", messages=[], swapped=False, settled=1.0)]
        template = load_template(self.template, TEMPLATE, ("model_output",))
        text = fill(template, shown(task) | {"model_output": reply}, PLACEHOLDER)
        return [Question(key=task.key, part="score", messages=[{"role": "user", "content": text}], swapped=False)]

    def read(self, question: Question, answer: Answer) -> float | None:
        """The number in the field "score" of a JSON object, from 1 to 10."""
        score = json_answer(answer.text).get("score")
        if isinstance(score, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*", score):
            score = float(score)
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            return None
        return float(score) if 1 <= score <= 10 else None

    def score(self, judged: Sequence[Judged]) -> dict[str, Any]:
        rows = [
            Graded(key=one.task.key, grade=one.verdicts[0], reply=one.replies[0]) for one in judged if one.verdicts[0] is not None
        ]
        groups = {one.task.key: one.task.groups for one in judged}
        if not rows:
            raise UserError("WildBench: none of the judge's answers can be read, so there is no score.")
        scores = summarise(rows, groups)
        counted = [row for row in rows if counts(row.reply)]
        whole = {row.key: (row.grade - 5) * 20 for row in counted or rows}  # if no reply counts, their grades do
        return {
            "WB-Score": metric(contributions(whole, groups), value=scores.macro * 10 if counted else None, digits=1),
            **{
                f"WB-Score: {name}": metric({key: value for key, value in whole.items() if name in groups[key]} or None, digits=1)
                for name in GROUPS
            },
            "grade": metric({row.key: row.grade for row in rows}, digits=2),
            "reply length": metric(None, value=scores.length, digits=0),
            **unread(judged),
        }

    def facts(self, judged: Judged) -> dict[str, Any]:
        return {} if judged.verdicts[0] is None else {"grade": judged.verdicts[0]}


def summarise(rows: Sequence[Graded], groups: Mapping[str, Collection[str]]) -> Scores:
    """The official figures of one model. `groups`: session id -> its task groups."""
    grades = [row.grade for row in rows]
    whole = [row for row in rows if counts(row.reply)]
    mean = sum(grades) / len(grades)
    by_group = {name: [row.grade for row in whole if name in groups.get(row.key, ())] for name in GROUPS}
    adjusted = {name: (sum(found) / len(found) - 5) * 2 for name, found in by_group.items() if found}
    length = sum(len(row.reply) for row in whole) / len(whole) if whole else 0.0
    return Scores(score=mean, adjusted=(mean - 5) * 2, groups=adjusted, macro=macro(adjusted), total=len(rows), length=length)
