"""The tables of a report as plain rows of text, the same for console and HTML."""

from collections.abc import Sequence
from typing import Any

from drift.alarms import OF_EVALUATION
from drift.report.compare import Comparison
from drift.report.members import conversation_of, gain, having, per_item, point, scored_names
from drift.report.statistics import Difference, Interval, level

Table = list[dict[str, str]]
COSTS = ("distinct prompts", "pairs", "steps", "generated tokens")


def show(interval: Interval, digits: int, *, sign: bool = False) -> str:
    """'0.312 [0.250, 0.380]'."""
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    mean = form.format(interval.mean)
    return mean if interval.low is None else f"{mean} [{form.format(interval.low)}, {form.format(interval.high)}]"


def show_difference(change: Difference, digits: int) -> str:
    """'+0.100 [+0.020, +0.180], p 0.012', the interval and p of one test; where it rests on too few, '+0.100, too few prompts'."""
    if change.few:
        return f"{change.mean:+.{digits}f}, too few prompts"
    return show(change, digits, sign=True) + ("" if change.p is None else f", p {show_p(change.p)}")


def show_p(p: float | None) -> str:
    """A tiny p is no zero."""
    return "-" if p is None else f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def rows(label: str, states: list[dict[str, Any]]) -> Table:
    """One row per evaluated policy of a group of runs that differ by seeds alone."""
    found, names, conversations = [], scored_names(states), conversation_of(states)
    for name in names:
        members = having(states, name)
        first = point(members[0], name)
        main = first["scores"]["headline"]
        row = {"run": label, "policy": name + ("" if len(members) == len(states) else f" ({len(members)} of {len(states)} runs)")}
        now, change = per_item(members, name, main), gain(states, name)
        row[main] = show(level(now, conversations), 3) if now else "-"
        row["against start"] = "-" if change is None else show_difference(change, 3)
        for metric, content in first["scores"]["metrics"].items():
            if metric != main:
                values = [point(state, name)["scores"]["metrics"].get(metric, {}).get("value") for state in members]
                known = [value for value in values if value is not None]
                row[metric] = f"{sum(known) / len(known):.{content['digits']}f}" if known else "-"
        for count in COSTS:
            values = [point(state, name).get(count) for state in members]
            row[count] = "-" if None in values else " / ".join(dict.fromkeys(str(value) for value in values))
        found.append(row)
    return found


def comparisons(found: Sequence[Comparison]) -> Table:
    """A row per comparison. "pairs" and "steps": up to the policies compared, twice where they are not matched."""
    return [
        {
            "comparison": f"{this.one.label} - {this.other.label}",
            "at": this.at,
            this.metric: show(this.gap, 3, sign=True),
            "over": this.gap.over,
            "pairs": against(this.one.pairs, this.other.pairs),
            "steps": against(this.one.steps, this.other.steps),
            "effect (d)": "-" if this.gap.effect is None else f"{this.gap.effect:+.2f}",
            "p": show_p(this.gap.p),
            "p (Holm)": show_p(this.p_holm),
            "verdict": this.verdict,
        }
        for this in found
    ]


def against(one: Sequence[int], other: Sequence[int]) -> str:
    """'16', or '14 against 16'; of seeds that differ, '14 / 15'."""
    sides = [" / ".join(map(str, sorted(set(side)))) for side in ((one, other) if tuple(one) != tuple(other) else (one,))]
    return " against ".join(sides)


def signal(lines: dict[str, list[list[dict[str, float]]]]) -> Table:
    """How much the pairs of a step agree on where to go (see train/signal.py), per iteration; `lines`: label -> per seed, the
    metrics of every step. Empty where nothing was measured."""
    found = []
    for label, seeds in lines.items():
        measured = [row for rows in seeds for row in rows if {"dpo_norm", "dpo_pair_norm"} <= row.keys()]
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
