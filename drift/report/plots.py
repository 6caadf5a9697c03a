"""The plots of the report, as inline SVG. Names of runs are plain text, whatever they contain; the SVG has no style sheet and no
style attributes, so that a page can forbid them (see page.py)."""

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from drift.report.dynamics import Steps, drawn, label
from drift.statistics import Interval

NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MAX_TITLE = 60  # characters: the name of a metric may come from somebody else
MARKERS = "osD^v"  # one for every ten lines, because there are ten colours


def by_iteration(lines: dict[str, list[tuple[str, Interval]]], ylabel: str) -> str:
    """A line per group of runs: mean and interval of every evaluated policy, in order. Returns an <svg> element."""
    names = list(dict.fromkeys(name for points in lines.values() for name, _ in points))
    names.sort(key=lambda name: (name != "start", name != "warm start", len(name), name))
    with drawing() as (axes, svg):
        for i, (label, points) in enumerate(lines.items()):
            _line(axes, i, len(lines), label, [(names.index(name), interval) for name, interval in points])
        axes.set_xticks(range(len(names)), [name_of(name) for name in names])
        _keep_means_in_sight(axes, [interval for points in lines.values() for _, interval in points])
        axes.set_ylabel(name_of(ylabel))
        axes.grid(axis="y", alpha=0.3)
        if len(lines) > 1:
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=_columns(lines))
    return svg[0]


def histogram(values: dict[str, Sequence[float]], xlabel: str) -> str:
    """How often a value occurs, one outline per name. Returns an <svg> element."""
    with drawing() as (axes, svg):
        most = max(max(numbers) for numbers in values.values())
        bins = range(0, int(most) + 2) if most < 30 else 40
        for label, numbers in values.items():
            axes.hist(numbers, bins=bins, histtype="stepfilled", alpha=0.5, label=name_of(label))
        axes.set_xlabel(xlabel)
        axes.set_ylabel("records")
        if len(values) > 1:
            axes.legend(frameon=False)
    return svg[0]


def dynamics(lines: Steps) -> str:
    """Small plots of training by step, one per metric, with the groups overlaid; "" without any step."""
    import numpy as np

    moments, means = mean_over_seeds(lines)
    shown = [name for name in drawn(lines) if any(not np.isnan(values[name]).all() for values in means.values())]
    if not shown:
        return ""
    rows = math.ceil(len(shown) / 3)
    above = 0.2 * math.ceil(len(means) / _columns(means)) if len(means) > 1 else 0  # inches for the legend
    with drawing(rows=rows, columns=3, size=(9.6, 2.2 * rows + above), above=above) as (grid, svg):
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, shown, strict=False):
            for run, values in means.items():
                known = np.flatnonzero(~np.isnan(values[name]))  # some metrics are measured only at some steps
                marker = "." if len(known) * 2 < len(moments) or len(known) == 1 else ""
                axes.plot(known + 1, values[name][known], label=name_of(run), linewidth=1.3, marker=marker)
            for border in np.flatnonzero(np.diff([iteration for iteration, _ in moments])):
                axes.axvline(border + 1.5, color="#c3ccd6", linewidth=0.8)
            axes.set_title(name_of(label(name))[:MAX_TITLE], fontsize=9, loc="left")
            axes.tick_params(labelsize=8)
            axes.xaxis.get_major_locator().set_params(integer=True)
        if len(means) > 1:
            lines_of = grid.flat[0].get_legend_handles_labels()
            style = {"frameon": False, "fontsize": 8, "ncols": _columns(means), "borderaxespad": 0.3}
            grid.flat[0].figure.legend(*lines_of, loc="upper left", **style)
    return svg[0]


def mean_over_seeds(lines: Steps) -> tuple[list[tuple[float, float]], dict[str, dict[str, Any]]]:
    """(every (iteration, step) of any run, in order; label -> metric -> its mean at each of them over the seeds, or NaN)."""
    import numpy as np

    moments = sorted({_moment(row) for seeds in lines.values() for rows in seeds for row in rows})
    means: dict[str, dict[str, Any]] = {run: {} for run in lines}
    names = drawn(lines)
    for run, seeds in lines.items():
        at = [{_moment(row): row for row in rows} for rows in seeds]
        for name in names:
            known = [[rows[moment][name] for rows in at if name in rows.get(moment, ())] for moment in moments]
            means[run][name] = np.array([sum(values) / len(values) if values else np.nan for values in known])
    return moments, means


def _columns(labels: Iterable[str]) -> int:
    """The number of columns of a legend that fit, given the length of its labels."""
    return max(1, 72 // (max(map(len, labels)) + 8))


def _moment(row: Mapping[str, float]) -> tuple[float, float]:
    return row["iteration"], row["step"]


@contextmanager
def drawing(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.2, 3.6), above: float = 0
) -> Iterator[tuple[Any, list[str]]]:
    """(axes, or a grid of them; a list that holds the <svg> text afterwards). `above`: inches over a grid, for its legend."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    svg: list[str] = []
    settings: Any = {"svg.hashsalt": "report", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    with plt.rc_context(settings | {"text.parse_math": False}):  # a dollar sign is a dollar sign
        figure, axes = plt.subplots(rows, columns, figsize=size)
        yield axes, svg
        for part in figure.axes:
            part.spines[["top", "right"]].set_visible(False)
        legends = [legend for part in figure.axes if (legend := part.get_legend()) is not None]
        for legend in legends:  # they may be outside of the plot, and must take no room from it
            legend.set_in_layout(False)
        if rows * columns > 1:  # fixed margins, with room for a number like -0.00025: computing them takes as long as drawing
            inch = 1 / size[1]
            figure.subplots_adjust(
                left=0.06, right=0.99, bottom=0.28 * inch, top=1 - (0.26 + above) * inch, wspace=0.28, hspace=0.32
            )
        else:
            figure.tight_layout()
        for legend in legends:
            legend.set_in_layout(True)
        text = io.StringIO()
        bounds = "tight" if legends else None  # costs as much as drawing, and only a legend can be outside
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches=bounds)
        plt.close(figure)
    svg.append(without_styles(text.getvalue()[text.getvalue().index("<svg") :]))


def without_styles(svg: str) -> str:
    """The same picture, with an attribute in place of each style."""
    from xml.etree import ElementTree

    space = "http://www.w3.org/2000/svg"
    ElementTree.register_namespace("", space)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(NO_XML.sub("\N{REPLACEMENT CHARACTER}", svg))
    for parent in list(root.iter()):
        for part in list(parent):
            if part.tag in (f"{{{space}}}style", f"{{{space}}}metadata"):
                parent.remove(part)
        for rule in filter(None, parent.attrib.pop("style", "").split("; ")):
            name, _, value = rule.partition(": ")
            if name == "font":  # "10px 'DejaVu Sans', sans-serif", as older versions of matplotlib write it
                size, _, value = value.partition("px ")
                parent.set("font-size", f"{size.split()[-1]}px")
                name = "font-family"
            parent.set(name, value)
    root.attrib.update({"stroke-linejoin": "round", "stroke-linecap": "butt"})  # the style sheet's defaults
    return ElementTree.tostring(root, encoding="unicode")


def name_of(label: str) -> str:
    """A label that a legend can show: matplotlib hides labels that begin with _, and has no glyph for a line break or an unpaired
    surrogate."""
    text = NO_XML.sub("\N{REPLACEMENT CHARACTER}", " ".join(label.split()))
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def _keep_means_in_sight(axes: Any, intervals: list[Interval]) -> None:
    """Crops very wide intervals, as two seeds have them, which would make the means look like a flat line."""
    means = [interval.mean for interval in intervals]
    widths = [interval.high - interval.low for interval in intervals if interval.low is not None and interval.high is not None]
    room = 1.5 * (max(means) - min(means)) + min((width for width in widths if width > 0), default=0.0)
    low, high = axes.get_ylim()
    if room > 0:
        axes.set_ylim(max(low, min(means) - room), min(high, max(means) + room))


def _line(axes: Any, index: int, count: int, label: str, points: list[tuple[int, Interval]]) -> None:
    shift = (index - (count - 1) / 2) * min(0.06, 0.8 / count)  # so that intervals don't hide each other
    x, y = [p + shift for p, _ in points], [interval.mean for _, interval in points]
    down = [interval.mean - (interval.low if interval.low is not None else interval.mean) for _, interval in points]
    up = [(interval.high if interval.high is not None else interval.mean) - interval.mean for _, interval in points]
    axes.errorbar(x, y, yerr=[down, up], marker=MARKERS[index // 10 % len(MARKERS)], capsize=3, label=name_of(label))
