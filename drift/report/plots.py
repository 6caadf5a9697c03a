"""Pictures of the report, as inline SVG."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from drift.report.statistics import Interval


def by_iteration(lines: dict[str, list[tuple[str, Interval]]], ylabel: str) -> str:
    """One line per run or method: level and interval at every evaluated policy, in order. Returns an <svg> element."""
    names = list(dict.fromkeys(name for points in lines.values() for name, _ in points))
    names.sort(key=lambda name: (name != "start", name != "warm start", name))
    with drawing() as (axes, svg):
        for i, (label, points) in enumerate(lines.items()):
            _line(axes, i, len(lines), label, [(names.index(name), interval) for name, interval in points])
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel(ylabel)
        axes.grid(axis="y", alpha=0.3)
        if len(lines) > 1:
            axes.legend(frameon=False)
    return svg[0]


def histogram(values: dict[str, Sequence[float]], xlabel: str) -> str:
    """How often a value occurs, one outline per name. Returns an <svg> element."""
    with drawing() as (axes, svg):
        most = max(max(numbers) for numbers in values.values())
        bins = range(0, int(most) + 2) if most < 30 else 40
        for label, numbers in values.items():
            axes.hist(numbers, bins=bins, histtype="stepfilled", alpha=0.5, label=label)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("records")
        if len(values) > 1:
            axes.legend(frameon=False)
    return svg[0]


@contextmanager
def drawing() -> Iterator[tuple[Any, list[str]]]:
    """(axes, a list that holds the <svg> text afterwards)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    svg: list[str] = []
    with plt.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}):
        figure, axes = plt.subplots(figsize=(7.2, 3.6))
        yield axes, svg
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    svg.append(text.getvalue()[text.getvalue().index("<svg") :])


def _line(axes: Any, index: int, count: int, label: str, points: list[tuple[int, Interval]]) -> None:
    shift = (index - (count - 1) / 2) * 0.06  # so that intervals do not hide one another
    x, y = [p + shift for p, _ in points], [interval.mean for _, interval in points]
    down = [interval.mean - (interval.low if interval.low is not None else interval.mean) for _, interval in points]
    up = [(interval.high if interval.high is not None else interval.mean) - interval.mean for _, interval in points]
    axes.errorbar(x, y, yerr=[down, up], marker="o", capsize=3, label=label)
