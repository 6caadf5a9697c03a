"""The tables of a report as plain rows of text, the same for console and HTML."""

from collections import defaultdict
from itertools import combinations
from typing import Any

from drift.alarms import OF_EVALUATION
from drift.report.statistics import Difference, Interval, holm, level, paired

Table = list[dict[str, str]]
SEEDS = ("seed", "data.seed")
MOST_COMPARED = 12  # groups that are all compared with one another; of more, each is compared with the first
SAME_PROMPTS = 0.9  # share of the prompts that two runs must have in common to be compared at all
NOT_SEPARABLE, NO_NUMBER = "not separable", "no number"  # the latter of values of which some are nan or infinite


def show(interval: Interval, digits: int, *, sign: bool = False) -> str:
    """'0.312 [0.250, 0.380]'."""
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    mean = form.format(interval.mean)
    return mean if interval.low is None else f"{mean} [{form.format(interval.low)}, {form.format(interval.high)}]"


def unclear(gap: Difference) -> str:
    """What is said of a difference that is not separable."""
    return NOT_SEPARABLE if gap.known else NO_NUMBER


def groups(states: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs that differ by nothing but seeds, together; named by their method and by what not all runs have in common."""
    titles = [state["title"] for state in states]
    names = sorted({name for title in titles for name in title} - {"method", *SEEDS})
    differing = [name for name in names if len({title.get(name) for title in titles}) > 1]
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for state, title in zip(states, titles, strict=True):
        found[", ".join([title["method"], *(f"{name}={title[name]}" for name in differing if name in title)])].append(state)
    return dict(found)


def scored_names(states: list[dict[str, Any]]) -> list[str]:
    """The evaluated policies of runs that differ by seeds alone, in order; some runs may not have come to the last ones yet."""
    names = [[point["name"] for point in state["points"] if "scores" in point] for state in states]
    return max(names, key=len, default=[])


def having(states: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The runs in which that policy has been evaluated."""
    return [state for state in states if any(p.get("name") == name and "scores" in p for p in state["points"])]


def point(state: dict[str, Any], name: str) -> dict[str, Any]:
    return next(p for p in state["points"] if p.get("name") == name and "scores" in p)


def per_item(states: list[dict[str, Any]], name: str, metric: str) -> list[dict[str, float]]:
    """Per-prompt values of a metric, one dict per run that has them."""
    values = [point(state, name)["scores"]["metrics"].get(metric, {}).get("per_item") for state in having(states, name)]
    return [value for value in values if value]


def headline(states: list[dict[str, Any]]) -> str:
    names = scored_names(states)
    return point(having(states, names[0])[0], names[0])["scores"]["headline"] if names else "score"


def common_name(states: list[dict[str, Any]]) -> str | None:
    """The last policy after the start model that two runs have, or the only run; None where nothing trained is evaluated yet."""
    return next((name for name in reversed(scored_names(states)[1:]) if len(having(states, name)) >= min(2, len(states))), None)


def gain(states: list[dict[str, Any]], name: str) -> Difference | None:
    """The headline's difference between a policy and the first one, over the runs that have it; None of the first one itself."""
    first, main, members = scored_names(states)[0], headline(states), having(states, name)
    now, before = per_item(members, name, main), per_item(members, first, main)
    return paired(now, before) if name != first and now and len(now) == len(before) else None


def rows(label: str, states: list[dict[str, Any]]) -> Table:
    """One row per evaluated policy of a group of runs that differ by seeds alone."""
    found, names = [], scored_names(states)
    for name in names:
        members = having(states, name)
        first = point(members[0], name)
        main = first["scores"]["headline"]
        row = {"run": label, "policy": name + ("" if len(members) == len(states) else f" ({len(members)} of {len(states)} runs)")}
        now, change = per_item(members, name, main), gain(states, name)
        row[main] = show(level(now), 3) if now else "-"
        row["against start"] = "-"
        if change is not None:
            row["against start"] = show(change, 3, sign=True) + ("" if change.separable else f" {unclear(change)}")
        for metric, content in first["scores"]["metrics"].items():
            if metric != main:
                values = [point(state, name)["scores"]["metrics"][metric]["value"] for state in members]
                known = [value for value in values if value is not None]
                row[metric] = f"{sum(known) / len(known):.{content['digits']}f}" if known else "-"
        for count in ("distinct prompts", "pairs", "steps", "generated tokens"):
            values = [point(state, name).get(count) for state in members]
            row[count] = "-" if None in values else " / ".join(dict.fromkeys(str(value) for value in values))
        found.append(row)
    return found


def comparisons(grouped: dict[str, list[dict[str, Any]]]) -> Table:
    """Every two groups (of very many: the first and every other) at the last policy that two seeds of both have come to, or the
    only one: paired difference over these seeds; p for all of them at once. "steps": of the optimiser, twice where they are not
    matched. Groups that were not evaluated alike are left out."""
    couples = [pair for pair in combinations(grouped, 2) if len(grouped) <= MOST_COMPARED or pair[0] == next(iter(grouped))]
    found = [(*labels, *gap) for labels in couples if (gap := _gap(grouped, *labels)) is not None]
    corrected = holm([1.0 if gap.p is None else gap.p for *_, gap in found])
    for (one, other, row, gap), p in zip(found, corrected, strict=True):
        row["effect (d)"] = "-" if gap.effect is None else f"{gap.effect:+.2f}"
        row["p (Holm)"] = f"{p:.3f}" if p >= 0.0005 else "< 0.001"
        row["verdict"] = unclear(gap) if p >= 0.05 or not gap.separable else f"{one if gap.mean > 0 else other} is better"
    return [row for *_, row, _ in found]


def _gap(grouped: dict[str, list[dict[str, Any]]], one: str, other: str) -> tuple[dict[str, str], Difference] | None:
    """A row of the comparison and its difference; None where the two have nothing in common. Policies of one name are compared,
    or the last ones of both where no name is the same (a warm start alone and iterations)."""
    a, b = _by_seed(grouped[one]), _by_seed(grouped[other])
    common = [seed for seed in a if seed in b]
    sides = [[side[seed] for seed in common] for side in (a, b)]
    main, names, others = headline(sides[0]), *(scored_names(side)[1:] for side in sides)
    if main != headline(sides[1]) or not names or not others:
        return None
    for name, same in [(name, name) for name in reversed(names) if name in others] or [(names[-1], others[-1])]:
        seeds = [seed for seed in common if having([a[seed]], name) and having([b[seed]], same)]
        if len(seeds) < min(2, len(common)):
            continue
        now, then = per_item([a[seed] for seed in seeds], name, main), per_item([b[seed] for seed in seeds], same, main)
        if not now or len(now) != len(then) or not all(map(_same_prompts, now, then)):
            return None
        gap, at = paired(now, then), name if name == same else f"{name}, {same}"
        steps = [_steps([side[seed] for seed in seeds], last) for side, last in ((a, name), (b, same))]
        row = {"comparison": f"{one} - {other}", "at": at, main: show(gap, 3, sign=True), "over": gap.over}
        return row | {"steps": " against ".join(dict.fromkeys(steps))}, gap
    return None


def _steps(states: list[dict[str, Any]], name: str) -> str:
    """Optimiser steps up to that policy, of runs that differ by seeds alone."""
    found = set()
    for state in states:
        so_far = state["points"][: state["points"].index(point(state, name)) + 1]
        found.add(sum(done.get("steps", 0) for done in so_far))
    return " / ".join(map(str, sorted(found)))


def _same_prompts(one: dict[str, float], other: dict[str, float]) -> bool:
    return len(one.keys() & other.keys()) >= SAME_PROMPTS * max(len(one), len(other))


def signal(lines: dict[str, list[list[dict[str, float]]]]) -> Table:
    """How much the pairs of a step agree on where to go (see train/signal.py), per iteration; `lines`: label -> per seed, the
    metrics of every step. Empty where nothing was measured."""
    found = []
    for label, seeds in lines.items():
        measured = [row for rows in seeds for row in rows if "dpo_norm" in row]
        for iteration in sorted({row["iteration"] for row in measured}):
            here = [row for row in measured if row["iteration"] == iteration]
            alone, together = (sum(row[name] for row in here) / len(here) for name in ("dpo_pair_norm", "dpo_norm"))
            row = {"run": label, "iteration": f"{iteration:.0f}", "steps measured": str(len(here))}
            row |= {"norm of a pair's gradient": f"{alone:.3g}", "norm of the step's mean": f"{together:.3g}"}
            found.append(row | {"ratio": f"{together / alone:.2f}" if alone else "-"})
    return found


def failed(grouped: dict[str, list[dict[str, Any]]]) -> Table:
    """Every run that ended with an error, by group."""
    return [
        {"run": label, "seed": state["title"].get("seed", "-"), "error": state["error"]}
        for label, states in grouped.items()
        for state in states
        if state["error"]
    ]


def alarms(grouped: dict[str, list[dict[str, Any]]]) -> Table:
    """Every alarm that sounded, by group and run."""
    return [
        {"run": label, "seed": state["title"].get("seed", "-"), "iteration": str(alarm["iteration"]), "during": alarm["during"]}
        | {"alarm": alarm["name"], "seen": alarm["text"]}
        for label, states in grouped.items()
        for state in states
        for alarm in state.get("alarms", [])
    ]


def watched(states: list[dict[str, Any]]) -> str:
    """Which alarms were on, and which of them this evaluation can't raise; "" where no run says so."""
    names = list(dict.fromkeys(name for state in states for name in state.get("watched", [])))
    metrics = [p["scores"]["metrics"] for state in states for p in state["points"] if "scores" in p]
    measured = {name for found in metrics for name, content in found.items() if content["value"] is not None}
    blind = [name for name in names if metrics and name in OF_EVALUATION and OF_EVALUATION[name] not in measured]
    said = f"Watched: {', '.join(name for name in names if name not in blind)}." if names else ""
    return said + (f" Not measured by this evaluation: {', '.join(blind)}." if blind else "")


def _by_seed(states: list[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    return {seeds_of(state): state for state in states}


def seeds_of(state: dict[str, Any]) -> tuple[str, ...]:
    return tuple(state["title"].get(name, "") for name in SEEDS)
