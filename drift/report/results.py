"""The numbers of a sweep as two files for other programs: results.csv, with a row per run and policy, and comparisons.csv."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.records import write_text
from drift.report.compare import Comparison, compare
from drift.report.members import (
    conversation_of,
    further,
    gain,
    groups,
    having,
    metrics_of,
    per_item,
    point_of,
    scored_names,
    seen_by,
    values,
)
from drift.report.state import Member, RunState
from drift.report.tables import COSTS
from drift.statistics import Difference, Interval, level, over_seeds

Row = dict[str, Any]


def write(folder: Path, members: Sequence[Member]) -> None:
    """Writes both files into a sweep's folder."""
    write_csv(folder / "results.csv", [row for member in members for row in of_member(folder, member)])
    write_csv(folder / "comparisons.csv", comparisons([member.state for member in members]))


def of_member(folder: Path, member: Member) -> list[Row]:
    """A row per evaluated policy: the overrides, every metric, intervals of the headline and of its gain (over this run's prompts),
    examples and steps of its iteration."""
    state = member.state
    about = {"run": str(member.folder.relative_to(folder)), "status": state.status} | state.title
    rows = []
    for name in scored_names([state]):
        this, scores = point_of(state, name)
        main, change = scores.headline, gain([state], name)
        row = about | {"policy": name, "iteration": this.iteration, "headline": main}
        for metric, value in metrics_of(this.scores).items():
            row[metric] = value
            if metric == main and (items := values(state, name, main)):
                row |= bounds(main, level([items], conversation_of([state])))
        if change is not None:
            row |= {"against start": change.mean} | bounds("against start", change)
            row |= {"against start p": change.p, "over": change.over}
        rows.append(row | {column: vars(this)[field] for column, field in COSTS.items()})
    return rows


def scores(grouped: Mapping[str, Sequence[RunState]]) -> list[Row]:
    """A row per group, evaluation, policy and metric: the mean over seeds with its interval; of a headline also its gain over the
    start model, with the interval and p of one test."""
    rows = []
    for label, states in grouped.items():
        for evaluation in dict.fromkeys(name for state in states for point in state.points for name in point.scores):
            views = seen_by(states, evaluation)
            for policy in scored_names(views):
                about = {"run": label, "evaluation": evaluation, "policy": policy}
                rows += [about | row for row in _metrics(views, policy)]
    return rows


def _metrics(states: Sequence[RunState], policy: str) -> Iterator[Row]:
    """A policy's metrics. (With one seed only the headline has an interval, as on the page.)"""
    measured = [point_of(state, policy)[1] for state in having(states, policy)]
    main, change = measured[0].headline, gain(states, policy)
    for metric in measured[0].metrics:
        found = [one.value for scores in measured if (one := scores.metrics.get(metric)) is not None and one.value is not None]
        items = per_item(states, policy, metric) if metric == main else []
        if not found and not items:
            continue
        interval = level(items, conversation_of(states)) if items else over_seeds(found)
        row = {"metric": metric, "value": interval.mean, "low": interval.low, "high": interval.high, "seeds": len(found)}
        if metric == main and change is not None:
            row |= {"against start": change.mean} | bounds("against start", change) | {"p": change.p, "over": change.over}
        yield row


def bounds(name: str, interval: Interval | Difference) -> Row:
    return {f"{name} low": interval.low, f"{name} high": interval.high}


def comparisons(states: list[RunState]) -> list[Row]:
    """A row per evaluation and pair of groups: the headline of one minus that of the other. The p of an evaluation are corrected
    together."""
    usable = {label: members for label, members in groups(states).items() if scored_names(members)}
    rows = [_comparison(this) for this in compare(usable)]
    for name in further(states):
        views = {label: seen_by(members, name) for label, members in usable.items()}
        rows += [{"evaluation": name} | _comparison(this) for this in compare({k: v for k, v in views.items() if scored_names(v)})]
    return rows


def _comparison(this: Comparison) -> Row:
    return {
        "one": this.one.label, "other": this.other.label, "at": this.at, "metric": this.metric,
        "difference": this.gap.mean, "low": this.gap.low, "high": this.gap.high, "over": this.gap.over,
        "p": this.gap.p, "p (Holm)": this.p_holm, "effect (d)": this.gap.effect, "matched": this.matched,
        "examples of one": total(this.one.examples), "examples of other": total(this.other.examples),
        "steps of one": total(this.one.steps), "steps of other": total(this.other.steps), "verdict": this.verdict,
    }  # fmt: skip


def total(numbers: tuple[int, ...]) -> str:
    """The number, or one per seed if they differ."""
    return " / ".join(map(str, dict.fromkeys(numbers)))


def write_csv(path: Path, rows: list[Row]) -> None:
    """Writes columns in the order in which they first occur; a cell without a value is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
