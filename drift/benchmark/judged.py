"""The contract of a benchmark that needs a judge, and what passes between it, the models and the judge.

A benchmark asks no model itself. Whoever runs it draws a reply to each turn of each task, puts the benchmark's questions to the
judge, and hands both back:

    for task in benchmark.tasks():
        replies = [a reply to turn_prompt(task, []), a reply to turn_prompt(task, replies[:1]), …]   # one per turn
        questions = benchmark.questions(task, replies)
        verdicts = [benchmark.read(question, the judge's answer) for question in questions]
        judged.append(Judged(task=task, replies=replies, verdicts=verdicts))
    metrics = benchmark.score(judged)

An answer that can't be read is a verdict of None: it is counted in the metric `UNREAD`, and never guessed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from drift.engine.answer import Answer
from drift.evaluation.metric import metric
from drift.records import Message, Prompt, digest

UNREAD = "unread verdicts"
UNREAD_MEANS = "number of the judge's answers without a verdict that can be read; what they are about is left out"


class Task(Protocol):
    """One prompt of a benchmark. `key`: its id. `prompt`: the conversation up to the first turn that the model answers.
    `follow_ups`: the user's later turns, each after the model's reply to the one before."""

    @property
    def key(self) -> str: ...

    @property
    def prompt(self) -> Prompt: ...

    @property
    def follow_ups(self) -> Sequence[str]: ...


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the judge is asked. `key`: the task's. `part`: which of the task's questions it is. `swapped`: the replies are shown in
    the order opposite to the benchmark's first one. `settled`: the verdict, where the benchmark's rules need no judge (an empty
    reply); it has no messages."""

    key: str
    part: str
    messages: Sequence[Message]
    swapped: bool
    settled: Any = None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A task, a reply to each of its turns, and a verdict on each of its questions, in their order; None: it can't be read."""

    task: Any
    replies: Sequence[str]
    verdicts: Sequence[Any]


class JudgedBenchmark(Protocol):
    """A benchmark that needs a judge: a frozen, keyword-only dataclass whose settings have no defaults.

    `title`: its name. `licence`: of prompts and of other models' outputs, for the report. `published_judge`: the judge of the
    published numbers; other judges give numbers that are comparable among themselves only. `judge_settings`: how it was asked
    (OpenAI's parameter names, `max_tokens` among them). `headline`: the metric that is compared.
    `meanings`: metric -> a sentence for the report."""

    title: ClassVar[str]
    licence: ClassVar[str]
    judge_settings: ClassVar[Mapping[str, Any]]
    meanings: ClassVar[Mapping[str, str]]

    @property
    def published_judge(self) -> str: ...

    @property
    def headline(self) -> str: ...

    def check(self) -> None:
        """Raises `UserError` if data, a package or a setting is missing, before anything is paid for. Its messages call a setting
        `benchmark.NAME`; the evaluation puts its own place in front."""

    def key(self) -> dict[str, Any]:
        """What its questions and scores depend on: contents, not paths."""
        ...

    def tasks(self) -> Sequence[Any]:
        """Every `Task`, in the benchmark's order. A smaller panel is any part of them."""
        ...

    def questions(self, task: Any, replies: Sequence[str]) -> list[Question]:
        """The questions to the judge about the replies to a task; always the same number for a benchmark."""
        ...

    def read(self, question: Question, answer: Answer) -> Any:
        """The verdict in an answer, or None if there is none that the benchmark's rule can read. Not called for a settled
        question."""

    def score(self, judged: Sequence[Judged]) -> dict[str, Any]:
        """Metric -> `drift.evaluation.metric.metric(...)`, in the order of `meanings`. A metric whose mean is weighted (by
        category, say) has for each item its contribution: the mean of these is the metric, and their differences can be compared
        in pairs."""
        ...

    def facts(self, judged: Judged) -> dict[str, Any]:
        """What figures over several policies need of a judged task: `grade`, or `outcomes` and `style` (drift/report/rated.py); {}
        where there is no such figure, or no verdict."""
        ...


def turn_prompt(task: Task, replies: Sequence[str]) -> list[Message]:
    """The prompt of the next turn, after these replies to the ones before."""
    messages = list(task.prompt)
    for reply, follow_up in zip(replies, task.follow_ups, strict=False):
        messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": follow_up}]
    return messages


def fill(template: str, values: Mapping[str, str], pattern: str = r"\{(\w+)\}") -> str:
    """A template with its placeholders filled in one pass, so that a placeholder in a reply stays text. `pattern`: its first group
    is the name of a placeholder; unknown names stay as they are."""
    return re.sub(pattern, lambda found: values.get(found[1], found[0]), template)


def contents(tasks: Sequence[Any]) -> str:
    """A digest of all that tasks say, for the key of what was computed from them."""
    return digest([asdict(task) for task in tasks])


def unread(judged: Sequence[Judged]) -> dict[str, Any]:
    """The metric that counts the verdicts that can't be read."""
    return {UNREAD: metric(None, value=float(sum(verdict is None for one in judged for verdict in one.verdicts)), digits=0)}


def weighted(values: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Item -> contribution to the weighted mean, of which it is the mean: that mean plus the weighted deviation of the item (the
    weights average 1). So equal values have no spread, whatever their weights; it is that of a ratio of two sums."""
    total = sum(weights[key] for key in values)
    mean = sum(value * weights[key] for key, value in values.items()) / total
    return {key: mean + (value - mean) * weights[key] * len(values) / total for key, value in values.items()}
