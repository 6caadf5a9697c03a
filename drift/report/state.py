"""What run.json holds, as one tree of dataclasses: the journal builds and writes it; report, W&B and studies read it.

What may be missing has a default. A change of these fields is a new VERSION, and previous.py learns to read the one before.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift.report.shapes import Digits, Measured, made, wrong

VERSION = 2
RUN = "run.json"
MOST_POINTS, MOST_EVALUATIONS = 1000, 100
EVALUATION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # its name is that of a folder


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured quantity of a policy: its value; per prompt, where intervals can be made of it; decimals to show."""

    value: Measured | None
    per_item: dict[str, Measured] | None
    digits: Digits


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation measured of a policy, as scores.json holds it. `headline`: the metric that is compared. `conversations`:
    prompt -> its conversation, where those of one count as one."""

    headline: str
    metrics: dict[str, Metric]
    conversations: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Point:
    """A policy: the start model, the warm start, or an iteration's. `scores`: by evaluation, the run's headline first. The rest is
    of what it was trained on: `examples` and optimiser `steps`, their `distinct_prompts`, the tokens sampled for them, candidates
    by what became of them (`counts`, see examples/filters.py), and metrics of the `first_step`; None of what was not trained."""

    iteration: int
    name: str
    scores: dict[str, Scores] = field(default_factory=dict)
    examples: int | None = None
    steps: int | None = None
    distinct_prompts: int | None = None
    generated_tokens: int | None = None
    prompts_too_long: int | None = None
    counts: dict[str, int] | None = None
    first_step: dict[str, Measured] | None = None


@dataclass(frozen=True, kw_only=True)
class SpentStage:
    """A stage that the run asked for: its kind, seconds, memory, and whether it was found in the store (`hit`)."""

    name: str
    seconds: float
    peak_gib: float
    hit: bool
    tokens: float | None = None
    padding_share: float | None = None
    prefix_saving: float | None = None


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One that was raised: when (`during`), and what was seen (`text`)."""

    iteration: int
    during: str
    name: str
    text: str


@dataclass(kw_only=True)
class RunState:
    """A run. `title`: what distinguishes it in a study; `status`: running, finished, stopped or failed, with `error`; `data`:
    counts of its records; `evaluations`: evaluation -> metric -> what it means, the headline's first; `outlook`: sentences on what
    they can show; `watched`: the alarms that are on; `begun`: an ISO time, or ""; `seconds`: on the clock, so far."""

    version: int
    title: dict[str, str]
    notes: dict[str, str]
    status: str
    error: str | None
    data: dict[str, int | float | str | bool]
    evaluations: dict[str, dict[str, str]]
    outlook: list[str]
    points: list[Point]
    stages: list[SpentStage]
    alarms: list[Alarm]
    watched: list[str]
    environment: dict[str, str]
    begun: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run of a study (or the only one): its folder, and what its run.json says."""

    folder: Path
    state: RunState


def read(value: Any) -> RunState:
    """The state that a run.json's content is; ValueError with the path of what is not as it must be."""
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise ValueError(f"it has version {version}, and this program reads version {VERSION}. Use the one that wrote it")
    if said := wrong(value, RunState):
        raise ValueError(said)
    state: RunState = made(value, RunState)
    if said := _unfit(state):
        raise ValueError(said)
    return state


def scores(value: Any) -> Scores:
    """The same of a scores.json."""
    if said := wrong(value, Scores):
        raise ValueError(said)
    return made(value, Scores)


def _unfit(state: RunState) -> str | None:
    """What does not fit together in it."""
    if "method" not in state.title:
        return "title lacks method"
    if len(state.points) > MOST_POINTS:
        return f"points: expected at most {MOST_POINTS}, found {len(state.points)}"
    for i, point in enumerate(state.points):
        for name, found in point.scores.items():
            if found.headline not in found.metrics:
                return f"points[{i}].scores.{name[:60]}: headline {found.headline[:60]!r} is no metric of it"
        if point.counts is not None and (point.first_step is None or point.prompts_too_long is None):
            return f"points[{i}] has counts and lacks first_step, or prompts_too_long"
        if lacking := [name for name in ("seen", "used") if point.counts is not None and name not in point.counts]:
            return f"points[{i}] lacks counts.{lacking[0]}"
    names = [*state.evaluations, *(name for point in state.points for name in point.scores)]
    if odd := [name for name in names if not EVALUATION.fullmatch(name)]:
        return f"evaluations: {odd[0][:60]!r} is not the name of one"
    if len(count := set(names)) > MOST_EVALUATIONS:
        return f"evaluations: expected at most {MOST_EVALUATIONS}, found {len(count)}"
    return None
