"""The runs of a study by what they are: which belong together, which policies they have evaluated, and what those gained.

A state is the content of a run.json (see journal.py).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from drift.report.statistics import Difference, paired

SEEDS = ("seed", "data.seed")
State = dict[str, Any]


def groups(states: Sequence[State]) -> dict[str, list[State]]:
    """Runs that differ by nothing but seeds, together; named by their method and by what not all runs have in common."""
    titles = [state["title"] for state in states]
    names = sorted({name for title in titles for name in title} - {"method", *SEEDS})
    differing = [name for name in names if len({title.get(name) for title in titles}) > 1]
    found: dict[str, list[State]] = defaultdict(list)
    for state, title in zip(states, titles, strict=True):
        found[", ".join([title["method"], *(f"{name}={title[name]}" for name in differing if name in title)])].append(state)
    return dict(found)


def by_seed(states: Sequence[State]) -> dict[tuple[str, ...], State]:
    return {seeds_of(state): state for state in states}


def seeds_of(state: State) -> tuple[str, ...]:
    return tuple(state["title"].get(name, "") for name in SEEDS)


def scored_names(states: Sequence[State]) -> list[str]:
    """The evaluated policies of runs that differ by seeds alone, in order; some runs may not have come to the last ones yet."""
    names = [[point["name"] for point in state["points"] if "scores" in point] for state in states]
    return max(names, key=len, default=[])


def having(states: Sequence[State], name: str) -> list[State]:
    """The runs in which that policy has been evaluated."""
    return [state for state in states if any(p.get("name") == name and "scores" in p for p in state["points"])]


def point(state: State, name: str) -> dict[str, Any]:
    return next(p for p in state["points"] if p.get("name") == name and "scores" in p)


def values(state: State, name: str, metric: str) -> dict[str, float]:
    """Per-prompt values of a metric of one run's policy; empty where there are none."""
    return (point(state, name)["scores"]["metrics"].get(metric, {}).get("per_item") or {}) if having([state], name) else {}


def per_item(states: Sequence[State], name: str, metric: str) -> list[dict[str, float]]:
    """Per-prompt values of a metric, one dict per run that has them."""
    return [found for state in states if (found := values(state, name, metric))]


def conversation_of(states: Sequence[State]) -> dict[str, str]:
    """Prompt -> its conversation, where the evaluation says so."""
    scores = [point["scores"] for state in states for point in state["points"] if "scores" in point]
    return {item: name for found in scores for item, name in found.get("conversations", {}).items()}


def headline(states: Sequence[State]) -> str:
    names = scored_names(states)
    return point(having(states, names[0])[0], names[0])["scores"]["headline"] if names else "score"


def common_name(states: Sequence[State]) -> str | None:
    """The last policy after the start model that two runs have, or the only run; None where nothing trained is evaluated yet."""
    return next((name for name in reversed(scored_names(states)[1:]) if len(having(states, name)) >= min(2, len(states))), None)


def gain(states: Sequence[State], name: str) -> Difference | None:
    """The headline's difference between a policy and the first one, over the runs that have both; None of the first one itself."""
    first, main = scored_names(states)[0], headline(states)
    both = [(values(state, name, main), values(state, first, main)) for state in states]
    known = [(now, before) for now, before in both if now.keys() & before.keys()]
    if name == first or not known:
        return None
    return paired([now for now, _ in known], [before for _, before in known], conversation_of(states))


def last_gains(grouped: Mapping[str, Sequence[State]]) -> dict[str, Difference | None]:
    """Group -> the gain of its last policy that two of its seeds have; of those that have trained."""
    names = {label: common_name(members) for label, members in grouped.items()}
    return {label: gain(grouped[label], name) for label, name in names.items() if name is not None}


def meanings(states: Sequence[State]) -> dict[str, str]:
    """What the metrics mean, as the evaluation says."""
    return {name: text for state in states for name, text in state.get("meanings", {}).items()}
