"""The lines of the jsonl files in a run's folder, as types, with the fields that a page shows."""

from dataclasses import dataclass
from typing import Any, Literal

from drift.report.shapes import Measured


@dataclass(frozen=True, kw_only=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a label comes from."""

    detector: str = "-"
    label: str = ""
    category: str | None = None
    confidence: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A line of records.jsonl."""

    id: str
    conversation: str
    prompt: list[Message]
    reply: str
    label: Literal["dsat", "sat", "silent"]
    ended: bool
    feedback: str | None
    revised: str | None
    satisfied: bool
    truth: Any
    provenance: Provenance | None


@dataclass(frozen=True, kw_only=True)
class TrainedReply:
    """One of an example's replies: fresh or logged, good or bad."""

    text: str
    ended: bool
    fresh: bool
    good: bool


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A line of examples.jsonl."""

    prompt: list[Message]
    replies: list[TrainedReply]
    record: str


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A line of replies.jsonl; `logged`, `label`, `feedback`: the log's reply to the same prompt."""

    prompt: list[Message]
    reply: str
    ended: bool | None = None
    useful: bool | None = None
    words: int | None = None
    distinct_2: float | None = None
    logged: str | None = None
    label: Literal["dsat", "sat", "silent"] | None = None
    feedback: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgedReply:
    """The same line with what a judge said of the reply, where a figure over several policies needs it: the `key` of its task, and
    its `grade`, or `outcomes` and `style` (see `JudgedBenchmark.facts`)."""

    reply: str
    key: str = ""
    judge: str = ""
    grade: float | None = None
    outcomes: list[float] | None = None
    style: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of how far a judge agrees with users. `of`: the side or the group that it is about; `number`: of items."""

    measure: str
    of: str
    number: int
    mean: Measured
    low: float | None
    high: float | None
    over: str


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The content of agreement.json: two sides, of which one may be the users."""

    a: str
    b: str
    measures: list[Measure]
    meanings: dict[str, str]


def answer(row: Any) -> Any:
    """A line of replies.jsonl with keys that are field names."""
    return {key.replace("-", "_"): value for key, value in row.items()} if isinstance(row, dict) else row
