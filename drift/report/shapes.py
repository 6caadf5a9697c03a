"""What the files of a run's folder hold, as types; and a look at whether a file does. Somebody else may have written it.

A number is finite and below 1e15; where it was measured it may also be nan or infinite, as of a policy that is broken.
"""

import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NotRequired, TypedDict

MOST_NUMBER, MOST_ITEMS, MOST_DIGITS = 1e15, 2_000_000, 12
MOST_LISTED, MOST_TEXT = 10_000, 1_000_000  # entries of a list, characters of a text


class Measured(float):
    """A number that may be nan or infinite."""


class Digits(int):
    """Of a number, when it is shown."""


class Metric(TypedDict):
    value: Measured | None
    per_item: dict[str, Measured] | None
    digits: Digits


class Scores(TypedDict):
    headline: str
    metrics: dict[str, Metric]
    conversations: NotRequired[dict[str, str]]


class Alarm(TypedDict):
    iteration: int
    during: str
    name: str
    text: str


class Spent(TypedDict):
    """A stage: its kind, seconds, memory, and whether it was found in the store."""

    name: str
    seconds: float
    peak_gib: float
    hit: bool
    tokens: NotRequired[float]
    padding_share: NotRequired[float]
    prefix_saving: NotRequired[float]


Point = TypedDict(
    "Point",
    {
        "iteration": int, "name": NotRequired[str], "scores": NotRequired[Scores],
        "pairs": NotRequired[int], "steps": NotRequired[int], "distinct prompts": NotRequired[int],
        "generated tokens": NotRequired[int], "prompts too long": NotRequired[int],
        "counts": NotRequired[dict[str, int]], "first step": NotRequired[dict[str, Measured]],
    },
)  # fmt: skip


class State(TypedDict):
    """run.json."""

    title: dict[str, str]
    notes: dict[str, str]
    status: str
    error: str | None
    data: dict[str, int | float | str | bool]
    points: list[Point]
    stages: list[Spent]
    alarms: NotRequired[list[Alarm]]
    watched: NotRequired[list[str]]
    environment: NotRequired[dict[str, str]]
    meanings: NotRequired[dict[str, str]]
    outlook: NotRequired[list[str]]
    begun: NotRequired[str]
    seconds: NotRequired[float]


class Message(TypedDict):
    role: str
    content: str


class Provenance(TypedDict):
    """Those parts of it that a page shows."""

    detector: NotRequired[str]
    label: NotRequired[str]
    category: NotRequired[str | None]
    confidence: NotRequired[float]


class Logged(TypedDict):
    """A line of records.jsonl."""

    id: str
    conversation: str
    prompt: list[Message]
    reply: str
    label: Literal["dsat", "sat"]
    ended: bool
    feedback: str | None
    revised: str | None
    satisfied: bool
    truth: Any
    provenance: Provenance | None


class Side(TypedDict):
    text: str
    ended: bool
    fresh: bool
    good: bool


class Trained(TypedDict):
    """A line of examples.jsonl."""

    prompt: list[Message]
    replies: list[Side]
    record: str


Answered = TypedDict(
    "Answered",
    {
        "prompt": list[Message], "reply": str, "ended": NotRequired[bool], "useful": NotRequired[bool | None],
        "words": NotRequired[int], "distinct-2": NotRequired[float], "logged": NotRequired[str],
        "label": NotRequired[Literal["dsat", "sat"]], "feedback": NotRequired[str | None],
    },
)  # fmt: skip  # a line of replies.jsonl


def wrong(value: Any, hint: Any, where: str = "") -> str | None:
    """'points[0].name: expected text, found 3', of the first thing in `value` that is not what `hint` says; None: all is."""
    if fits(hint)(value):
        return None
    here = where.lstrip(".")[:100] or "it"
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType and isinstance(value, dict):  # if an object is one of them, say what is wrong in it
        options = [option for option in options if typing.is_typeddict(option) or typing.get_origin(option) is dict]
        hint, origin = (options[0], typing.get_origin(options[0])) if options else (hint, origin)
        options = typing.get_args(hint)
    inner: list[tuple[Any, Any, str]] = []
    if typing.is_typeddict(hint) and isinstance(value, dict):
        if lacking := sorted(hint.__required_keys__ - value.keys()):
            return f"{here} lacks {', '.join(lacking)}"
        inner = [(value[key], of, f"{where}.{key}") for key, of in typing.get_type_hints(hint).items() if key in value]
    elif origin is dict and isinstance(value, dict):
        inner = [(item, options[1], f"{where}.{key}") for key, item in value.items()]
    elif origin is list and isinstance(value, list) and len(value) <= MOST_LISTED:
        inner = [(item, options[0], f"{where}[{i}]") for i, item in enumerate(value)]
    said = next((said for part in inner if (said := wrong(*part))), None)
    return said or f"{here}: expected {_name(hint)}, found {repr(value)[:60]}"


@cache
def fits(hint: Any) -> Callable[[Any], bool]:
    """Whether a value is what `hint` says; made once for each, as logs have many rows."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value: True
    if typing.is_typeddict(hint):
        needed = hint.__required_keys__
        parts = [(key, fits(of)) for key, of in typing.get_type_hints(hint).items()]
        return lambda value: (
            isinstance(value, dict) and needed <= value.keys() and all(ok(value[key]) for key, ok in parts if key in value)
        )
    if origin is dict:
        item = fits(options[1])
        return lambda value: isinstance(value, dict) and len(value) <= MOST_ITEMS and all(map(item, value.values()))
    if origin is list:
        item = fits(options[0])
        return lambda value: isinstance(value, list) and len(value) <= MOST_LISTED and all(map(item, value))
    if origin is types.UnionType:
        any_of = [fits(option) for option in options]
        return lambda value: any(ok(value) for ok in any_of)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in options
    return PLAIN[hint]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST_NUMBER  # so no nan either


PLAIN: dict[Any, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str) and len(value) <= MOST_TEXT,
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, int) and _number(value),
    float: _number,
    Measured: lambda value: _number(value) or isinstance(value, float) and not math.isfinite(value),
    Digits: lambda value: isinstance(value, int) and _number(value) and 0 <= value <= MOST_DIGITS,
    types.NoneType: lambda value: value is None,
}


def _name(hint: Any) -> str:
    if typing.get_origin(hint) in (types.UnionType, Literal):
        return " or ".join(_name(option) for option in typing.get_args(hint))
    kinds = {str: "text", int: "a whole number", float: "a number", Measured: "a number", bool: "true or false"}
    kinds |= {Digits: f"a whole number up to {MOST_DIGITS}", types.NoneType: "null", dict: "an object", list: "a list"}
    return kinds.get(typing.get_origin(hint) or hint, str(hint) if isinstance(hint, str) else "an object")


def wrong_state(state: Any) -> str | None:
    """The same of a run.json, and of what must fit together in it."""
    if said := wrong(state, State):
        return said
    if "method" not in state["title"]:
        return "title lacks method"
    if len(state["points"]) > 1000:
        return f"points: expected at most 1000, found {len(state['points'])}"
    for i, point in enumerate(state["points"]):
        scores: Mapping[str, Any] = point.get("scores", {"headline": "", "metrics": {"": None}})
        if "scores" in point and "name" not in point:
            return f"points[{i}] has scores and lacks name"
        if scores["headline"] not in scores["metrics"]:
            return f"points[{i}].scores: headline {scores['headline'][:60]!r} is no metric of it"
        needed = {"counts": ("seen", "used")}
        if "counts" in point and not {"first step", "prompts too long"} <= point.keys():
            return f"points[{i}] has counts and lacks first step, or prompts too long"
        if lacking := [
            f"{key}.{name}" for key, names in needed.items() if key in point for name in names if name not in point[key]
        ]:
            return f"points[{i}] lacks {lacking[0]}"
    return None
