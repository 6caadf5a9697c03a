"""The runs of a study: which belong together, which policies they have evaluated, and what those gained.

Everything here is about the first evaluation of a run, its headline; `seen_by` gives the runs with another evaluation as the only
one.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from drift.report.state import Member, Point, RunState, Scores
from drift.statistics import Difference, paired

SEEDS = ("seed", "data.seed")
T = TypeVar("T")


def groups(states: Sequence[RunState]) -> dict[str, list[RunState]]:
    """Groups of runs that differ only by seeds, named by their method and by the settings that differ between its runs."""
    return _together(states, states)


def grouped(members: Sequence[Member]) -> dict[str, list[Member]]:
    """The same for runs with their folders."""
    return _together([member.state for member in members], members)


def states_of(members: Mapping[str, Sequence[Member]]) -> dict[str, list[RunState]]:
    return {label: [member.state for member in group] for label, group in members.items()}


def _together(states: Sequence[RunState], runs: Sequence[T]) -> dict[str, list[T]]:
    by_method: dict[str, list[RunState]] = defaultdict(list)
    for state in states:
        by_method[state.title["method"]].append(state)
    named = {method: _differing(members) for method, members in by_method.items()}
    by_label: dict[str, list[T]] = defaultdict(list)
    for run, state in zip(runs, states, strict=True):
        title = state.title
        names = [name for name in named[title["method"]] if name in title]
        by_label[", ".join([title["method"], *(f"{name}={title[name]}" for name in names)])].append(run)
    return dict(by_label)


def unnamed(states: Sequence[RunState]) -> list[str]:
    """The settings that differ between methods, and that no group is named by."""
    methods = {state.title["method"] for state in states}
    named = {name for method in methods for name in _differing([state for state in states if state.title["method"] == method])}
    return [name for name in _differing(states) if name not in named]


def _differing(states: Sequence[RunState]) -> list[str]:
    """The settings that differ between these runs, without the method and the seeds."""
    names = sorted({name for state in states for name in state.title} - {"method", *SEEDS})
    return [name for name in names if len({state.title.get(name) for state in states}) > 1]


def by_seed(states: Sequence[RunState]) -> dict[tuple[str, ...], RunState]:
    return {seeds_of(state): state for state in states}


def seeds_of(state: RunState) -> tuple[str, ...]:
    return tuple(state.title.get(name, "") for name in SEEDS)


def scores_of(point: Point) -> Scores | None:
    """The scores of the headline evaluation."""
    return next(iter(point.scores.values()), None)


def further(states: Sequence[RunState]) -> list[str]:
    """The evaluations that are not any run's headline."""
    names = [list(point.scores) for state in states for point in state.points if point.scores]
    return list(dict.fromkeys(name for row in names for name in row[1:] if name not in {row[0] for row in names}))


def seen_by(states: Sequence[RunState], evaluation: str) -> list[RunState]:
    """The runs as if this evaluation were the only one."""

    def alone(point: Point) -> Point:
        return replace(point, scores={name: scores for name, scores in point.scores.items() if name == evaluation})

    return [replace(state, points=[alone(point) for point in state.points]) for state in states]


def metrics_of(scores: Mapping[str, Scores]) -> dict[str, float | None]:
    """Metric -> value of one policy, for other programs; metrics of a further evaluation are named EVALUATION/metric."""
    return {
        name if i == 0 else f"{evaluation}/{name}": metric.value
        for i, (evaluation, result) in enumerate(scores.items())
        for name, metric in result.metrics.items()
    }


def scored_names(states: Sequence[RunState]) -> list[str]:
    """The evaluated policies of a group of runs, in order; some runs may not have reached the last ones yet."""
    names = [[point.name for point in state.points if point.scores] for state in states]
    return max(names, key=len, default=[])


def scored(state: RunState, name: str) -> tuple[Point, Scores] | None:
    """The policy of that name and its headline evaluation; None if it was not evaluated."""
    known = ((point, scores_of(point)) for point in state.points if point.name == name)
    return next(((point, scores) for point, scores in known if scores is not None), None)


def having(states: Sequence[RunState], name: str) -> list[RunState]:
    """The runs in which that policy has been evaluated."""
    return [state for state in states if scored(state, name) is not None]


def point_of(state: RunState, name: str) -> tuple[Point, Scores]:
    """The same for a run in which it has been evaluated."""
    evaluated = scored(state, name)
    assert evaluated is not None, name
    return evaluated


def values(state: RunState, name: str, metric: str) -> dict[str, float]:
    """Per-prompt values of a metric of one run's policy; empty if there are none."""
    evaluated = scored(state, name)
    measured = evaluated[1].metrics.get(metric) if evaluated else None
    return (measured.per_item or {}) if measured else {}


def per_item(states: Sequence[RunState], name: str, metric: str) -> list[dict[str, float]]:
    """Per-prompt values of a metric, one dict per run that has them."""
    return [items for state in states if (items := values(state, name, metric))]


def conversation_of(states: Sequence[RunState]) -> dict[str, str]:
    """Prompt -> its conversation, if the evaluation has conversations."""
    known = [scores for state in states for point in state.points if (scores := scores_of(point))]
    return {item: name for scores in known for item, name in scores.conversations.items()}


def headline(states: Sequence[RunState]) -> str:
    """The metric that is compared."""
    names = scored_names(states)
    return point_of(having(states, names[0])[0], names[0])[1].headline if names else "score"


def common_name(states: Sequence[RunState]) -> str | None:
    """The last trained policy that at least two runs have, or the only run; None if no trained policy is evaluated yet."""
    return next((name for name in reversed(scored_names(states)[1:]) if len(having(states, name)) >= min(2, len(states))), None)


def gain(states: Sequence[RunState], name: str) -> Difference | None:
    """The headline's difference between a policy and the first one, over the runs that have both; None for the first one itself."""
    first, main = scored_names(states)[0], headline(states)
    both = [(values(state, name, main), values(state, first, main)) for state in states]
    known = [(now, before) for now, before in both if now.keys() & before.keys()]
    if name == first or not known:
        return None
    return paired([now for now, _ in known], [before for _, before in known], conversation_of(states))


def last_gains(runs: Mapping[str, Sequence[RunState]]) -> dict[str, Difference | None]:
    """Group -> the gain of the last policy that at least two of its seeds have, for the groups that have a trained policy."""
    names = {label: common_name(members) for label, members in runs.items()}
    return {label: gain(runs[label], name) for label, name in names.items() if name is not None}


def meanings(states: Sequence[RunState]) -> dict[str, str]:
    """Metric -> its meaning, for the headline evaluations of these runs."""
    texts: dict[str, str] = {}
    for state in states:
        known = {name for point in state.points for name in list(point.scores)[:1]} or set(list(state.evaluations)[:1])
        texts |= {name: text for evaluation in known for name, text in state.evaluations.get(evaluation, {}).items()}
    return texts
