"""The content of run.json, as a tree of dataclasses: the journal writes it; report, W&B and studies read it.

Optional fields have a default. Whoever changes these fields raises VERSION and makes previous.py read the old version.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift.report.shapes import Digits, Measured, build, mismatch

VERSION = 2
RUN, WARM_START = "run.json", "warm start"  # a file, and the name of a policy
MOST_POINTS, MOST_EVALUATIONS = 1000, 100
EVALUATION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # its name is also the name of a folder


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured quantity of a policy: its value; its values per prompt, if it can have an interval; the decimals to show."""

    value: Measured | None
    per_item: dict[str, Measured] | None
    digits: Digits


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The result of an evaluation, as in scores.json. `headline`: the metric that is compared. `conversations`: prompt -> its
    conversation, if prompts of one conversation count as one."""

    headline: str
    metrics: dict[str, Metric]
    conversations: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Point:
    """A policy: the start model, the warm start, or an iteration's. `scores`: by evaluation, the run's headline first. The other
    fields describe its training: `examples` and optimiser `steps`, `distinct_prompts`, the tokens sampled for the examples,
    `counts` of candidates (see examples/filters.py), and the metrics of the `first_step`; they are None for the start model."""

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
    """A stage of the run: its kind, seconds, memory, and whether it was found in the store (`hit`)."""

    name: str
    seconds: float
    peak_gib: float
    hit: bool
    tokens: float | None = None
    padding_share: float | None = None
    prefix_saving: float | None = None


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """An alarm that was raised: when (`during`), and what was measured (`text`)."""

    iteration: int
    during: str
    name: str
    text: str


@dataclass(kw_only=True)
class RunState:
    """A run. `title`: what distinguishes it in a study; `status`: running, finished, stopped or failed (with an `error`); `data`:
    counts of its records; `evaluations`: evaluation -> metric -> its meaning, the headline's first; `outlook`: sentences on what
    they can show; `watched`: the alarms that are on; `begun`: an ISO time, or ""; `seconds`: elapsed so far; `removed`: the
    policies whose weights were removed to save disk; `compared`: sentences on how far the sampler's log-probabilities are from
    training's."""

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
    removed: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run of a study (or the only one): its folder, and the content of its run.json."""

    folder: Path
    state: RunState


def read(value: Any) -> RunState:
    """The state of a run, from the content of its run.json; a ValueError names the path of what is malformed."""
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise ValueError(f"it has version {version}, and this program reads version {VERSION}. Use the program that wrote it")
    if problem := mismatch(value, RunState):
        raise ValueError(problem)
    state: RunState = build(value, RunState)
    if problem := _inconsistency(state):
        raise ValueError(problem)
    return state


def scores(value: Any) -> Scores:
    """The same for the content of a scores.json."""
    if problem := mismatch(value, Scores):
        raise ValueError(problem)
    return build(value, Scores)


def _inconsistency(state: RunState) -> str | None:
    """The first contradiction between its fields, or None."""
    if "method" not in state.title:
        return "title lacks method"
    if len(state.points) > MOST_POINTS:
        return f"points: expected at most {MOST_POINTS}, found {len(state.points)}"
    for i, point in enumerate(state.points):
        for name, scored in point.scores.items():
            if scored.headline not in scored.metrics:
                return f"points[{i}].scores.{name[:60]}: headline {scored.headline[:60]!r} is not one of its metrics"
        if point.counts is not None and (point.first_step is None or point.prompts_too_long is None):
            return f"points[{i}] has counts and lacks first_step, or prompts_too_long"
        if lacking := [name for name in ("seen", "used") if point.counts is not None and name not in point.counts]:
            return f"points[{i}] lacks counts.{lacking[0]}"
    names = [*state.evaluations, *(name for point in state.points for name in point.scores)]
    if invalid := [name for name in names if not EVALUATION.fullmatch(name)]:
        return f"evaluations: {invalid[0][:60]!r} is not a valid name"
    if len(count := set(names)) > MOST_EVALUATIONS:
        return f"evaluations: expected at most {MOST_EVALUATIONS}, found {len(count)}"
    return None
