"""The tables of `drift evaluate`: a row per policy and benchmark, with intervals over prompts (or conversations) and paired
differences.

Every policy is compared with the first one, on the same prompts; the p of all comparisons of headlines are corrected together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drift.report import rated
from drift.report.foreign import Reader
from drift.report.rated import Figures
from drift.report.results import bounds
from drift.report.state import Scores
from drift.report.tables import Table, show, show_difference
from drift.statistics import Difference, holm, level, paired


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a benchmark measured on a policy. `folder`: of its scores and replies; `about`: what was asked, how, the licence, the
    judge."""

    policy: str
    directory: Path
    benchmark: str
    scores: Scores
    folder: Path
    about: str


def ratings(scored: Sequence[Scored]) -> list[Figures]:
    """The figures of each that depend on the other policies; {} for most benchmarks."""
    reader, found = Reader(), dict[int, Figures]()
    for benchmark in dict.fromkeys(one.benchmark for one in scored if rated.needed(one.scores)):
        policies = {
            i: rated.judged(reader, one.folder, "replies.jsonl") for i, one in enumerate(scored) if one.benchmark == benchmark
        }
        found |= rated.figures_of(policies)
    return [found.get(i, {}) for i in range(len(scored))]


def tables(scored: Sequence[Scored], figures: Sequence[Figures]) -> dict[str, Table]:
    """Benchmark -> a row per policy: the headline, its difference from the first policy with the corrected p, the other metrics,
    and the figures that depend on the other policies."""
    gains, firsts = corrected(scored), {one.benchmark: one.policy for one in reversed(scored)}
    found: dict[str, Table] = {}
    for one, gain, together in zip(scored, gains, figures, strict=True):
        main = one.scores.headline
        row = {"policy": one.policy}
        for name, metric in one.scores.metrics.items():
            values = metric.per_item or {}
            shown = f"{metric.value:.{metric.digits}f}" if metric.value is not None else "-"
            row[name] = show(level([values], one.scores.conversations), metric.digits) if values else shown
            if name == main:
                row[f"against {firsts[one.benchmark]}"] = show_difference(gain, metric.digits) if gain else "-"
        row |= {name: show(interval, rated.DIGITS[name]) for name, interval in together.items()}
        found.setdefault(one.benchmark, []).append(row)
    return found


def corrected(scored: Sequence[Scored]) -> list[Difference | None]:
    """The difference of each headline from the first policy's, with Holm's p; None for the first policy itself."""
    gains = [difference(scored, one, one.scores.headline) for one in scored]
    tested = {i: gain.p for i, gain in enumerate(gains) if gain is not None and gain.p is not None and not gain.few}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [replace(gain, p=adjusted[i]) if gain is not None and i in adjusted else gain for i, gain in enumerate(gains)]


def difference(scored: Sequence[Scored], one: Scored, metric: str) -> Difference | None:
    """A metric of a policy minus the first policy's."""
    first = next(other for other in scored if other.benchmark == one.benchmark)
    now, before = one.scores.metrics[metric].per_item, first.scores.metrics[metric].per_item
    return paired([now], [before], one.scores.conversations) if first is not one and now and before else None


def rows(scored: Sequence[Scored], figures: Sequence[Figures]) -> list[dict[str, Any]]:
    """For other programs: a row per policy, benchmark and metric; p is that of the one comparison, not corrected."""
    found = []
    for one, together in zip(scored, figures, strict=True):
        rest = {"directory": str(one.directory), "about": one.about}
        for name, metric in one.scores.metrics.items():
            row: dict[str, Any] = {"policy": one.policy, "benchmark": one.benchmark, "metric": name, "value": metric.value}
            if metric.per_item:
                row |= bounds("value", level([metric.per_item], one.scores.conversations)) | {"prompts": len(metric.per_item)}
            if (gain := difference(scored, one, name)) is not None:
                row |= {"difference": gain.mean} | bounds("difference", gain) | {"p": gain.p}
            found.append(row | rest)
        for name, interval in together.items():
            row = {"policy": one.policy, "benchmark": one.benchmark, "metric": name, "value": interval.mean}
            found.append(row | bounds("value", interval) | rest)
    return found


def page(scored: Sequence[Scored], figures: Sequence[Figures], notes: Sequence[str]) -> str:
    """All tables in Markdown."""
    lines = ["# Benchmarks", "", *(f"- {note}" for note in notes)]
    for name, table in tables(scored, figures).items():
        columns = list(dict.fromkeys(column for row in table for column in row))
        cells = [columns, ["---"] * len(columns), *([row.get(column, "-") for column in columns] for row in table)]
        lines += ["", f"## {name}", "", *(f"| {' | '.join(cell.replace('|', ' ') for cell in row)} |" for row in cells)]
    known = {name for together in figures for name in together}
    lines += [
        "",
        "In brackets: 95 % intervals over prompts. Differences from a table's first policy are paired, prompt by prompt; their p "
        "are corrected for all comparisons on this page (Holm).",
        *(f"\n{name}: {text}." for name, text in rated.MEANINGS.items() if name in known),
    ]
    return "\n".join(lines) + "\n"
