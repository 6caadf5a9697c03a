"""The tables of a report as plain rows of text, the same for console and HTML."""

from collections.abc import Mapping, Sequence

from drift.alarms import METRIC_OF
from drift.report.compare import Comparison
from drift.report.dynamics import Steps
from drift.report.members import conversation_of, gain, having, per_item, point_of, scored_names
from drift.report.state import RunState
from drift.statistics import Difference, Interval, level

Table = list[dict[str, str]]
COSTS = {
    "distinct prompts": "distinct_prompts", "examples": "examples", "steps": "steps", "generated tokens": "generated_tokens",
}  # fmt: skip  # column -> field of a `Point`


def show(interval: Interval | Difference, digits: int, *, sign: bool = False) -> str:
    """'0.312 [0.250, 0.380]'."""
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    mean = form.format(interval.mean)
    return mean if interval.low is None else f"{mean} [{form.format(interval.low)}, {form.format(interval.high)}]"


def show_difference(change: Difference, digits: int) -> str:
    """'+0.100 [+0.020, +0.180], p 0.012', the interval and p of one test; with too few prompts, '+0.100, too few prompts'."""
    if change.few:
        return f"{change.mean:+.{digits}f}, too few prompts"
    return show(change, digits, sign=True) + ("" if change.p is None else f", p {show_p(change.p)}")


def show_p(p: float | None) -> str:
    """A tiny p is shown as '< 0.001', not as 0."""
    return "-" if p is None else f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def rows(label: str, states: Sequence[RunState]) -> Table:
    """A row per evaluated policy of a group of runs that differ only by seeds."""
    table, names, conversations = [], scored_names(states), conversation_of(states)
    for name in names:
        members = having(states, name)
        evaluated = [point_of(state, name) for state in members]
        first = evaluated[0][1]
        main = first.headline
        row = {"run": label, "policy": name + ("" if len(members) == len(states) else f" ({len(members)} of {len(states)} runs)")}
        now, change = per_item(members, name, main), gain(states, name)
        row[main] = show(level(now, conversations), 3) if now else "-"
        row["against start"] = "-" if change is None else show_difference(change, 3)
        for metric, content in first.metrics.items():
            if metric != main:
                measured = [scores.metrics.get(metric) for _, scores in evaluated]
                known = [one.value for one in measured if one is not None and one.value is not None]
                row[metric] = f"{sum(known) / len(known):.{content.digits}f}" if known else "-"
        for column, field in COSTS.items():
            values = [vars(point)[field] for point, _ in evaluated]
            row[column] = "-" if None in values else " / ".join(dict.fromkeys(str(value) for value in values))
        table.append(row)
    return table


def by_policy(runs: Mapping[str, Sequence[RunState]]) -> tuple[Table, Table]:
    """Two tables with a row per policy: its scores, and what it was trained on. As one table they would be too wide for a page."""
    policies = [row for label, states in runs.items() for row in rows(label, states)]
    columns = [name for name in dict.fromkeys(name for row in policies for name in row) if name not in COSTS]
    trained = [{name: row[name] for name in ("run", "policy", *COSTS)} for row in policies if row["examples"] != "-"]
    return without_repeats([{name: row.get(name, "-") for name in columns} for row in policies]), without_repeats(trained)


def without_repeats(rows: Table) -> Table:
    """The rows with the name of a group, which may be long, only in its first row."""
    names = ["", *(row["run"] for row in rows)]
    return [row | {"run": "" if name == row["run"] else row["run"]} for name, row in zip(names, rows, strict=False)]


def comparisons(compared: Sequence[Comparison]) -> Table:
    """A row per comparison. "examples" and "steps": up to the compared policies, both numbers if they don't match."""
    return [
        {
            "comparison": f"{this.one.label} - {this.other.label}",
            "at": this.at,
            this.metric: show(this.gap, 3, sign=True),
            "over": this.gap.over,
            "examples": against(this.one.examples, this.other.examples),
            "steps": against(this.one.steps, this.other.steps),
            "effect (d)": "-" if this.gap.effect is None else f"{this.gap.effect:+.2f}",
            "p": show_p(this.gap.p),
            "p (Holm)": show_p(this.p_holm),
            "verdict": this.verdict,
        }
        for this in compared
    ]


def against(one: Sequence[int], other: Sequence[int]) -> str:
    """'16', or '14 against 16'; '14 / 15' if seeds differ."""
    sides = [" / ".join(map(str, sorted(set(side)))) for side in ((one, other) if tuple(one) != tuple(other) else (one,))]
    return " against ".join(sides)


def signal(lines: Steps) -> Table:
    """How much the gradients of a step's pairs point the same way (see train/signal.py), per iteration; `lines`: label -> per seed,
    the metrics of every step. Empty if it was not measured."""
    table = []
    for label, seeds in lines.items():
        measured = [row for rows in seeds for row in rows if {"dpo_norm", "dpo_pair_norm"} <= row.keys()]
        for iteration in sorted({row["iteration"] for row in measured}):
            here = [row for row in measured if row["iteration"] == iteration]
            alone, together = (sum(row[name] for row in here) / len(here) for name in ("dpo_pair_norm", "dpo_norm"))
            row = {"run": label, "iteration": f"{iteration:.0f}", "steps measured": str(len(here))}
            row |= {"norm of a pair's gradient": f"{alone:.3g}", "norm of their mean": f"{together:.3g}"}
            table.append(row | {"ratio": f"{together / alone:.2f}" if alone else "-"})
    return table


def failed(grouped: Mapping[str, Sequence[RunState]]) -> Table:
    """Every run that ended with an error, by group."""
    return [
        {"run": label, "seed": state.title.get("seed", "-"), "error": state.error}
        for label, states in grouped.items()
        for state in states
        if state.error
    ]


def alarms(grouped: Mapping[str, Sequence[RunState]]) -> Table:
    """Every alarm that was raised, by group and run."""
    return [
        {"run": label, "seed": state.title.get("seed", "-"), "iteration": str(alarm.iteration), "during": alarm.during}
        | {"alarm": alarm.name, "measured": alarm.text}
        for label, states in grouped.items()
        for state in states
        for alarm in state.alarms
    ]


def alarms_on(states: Sequence[RunState]) -> str:
    """A sentence on which alarms were on, and which of them these evaluations can't raise; "" if none was on."""
    names = list(dict.fromkeys(name for state in states for name in state.watched))
    all_scores = [scores for state in states for point in state.points for scores in point.scores.values()]
    measured = {name for scores in all_scores for name, metric in scores.metrics.items() if metric.value is not None}
    impossible = [name for name in names if all_scores and name in METRIC_OF and METRIC_OF[name] not in measured]
    sentence = f"Alarms that were on: {', '.join(name for name in names if name not in impossible)}." if names else ""
    return sentence + (f" Not measured by the evaluations of these runs: {', '.join(impossible)}." if impossible else "")
