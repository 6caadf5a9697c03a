"""The figures of finished runs in one small file, so that a study goes on (or shows its tables) on another machine.

    python experiments/embedded-ranking/kept.py FOLDER --write FILE   the finished runs below a study's folder
    python experiments/embedded-ranking/kept.py FOLDER --read FILE    lays them out there, where no run of that name is

Of every metric the mean over prompts is kept: enough for tables over several seeds, not for a comparison of two runs alone.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from drift.errors import UserError  # noqa: E402
from drift.records import read_jsonl, write_json, write_jsonl  # noqa: E402
from drift.report import state  # noqa: E402
from drift.report.foreign import members_of  # noqa: E402
from drift.report.previous import upgraded  # noqa: E402
from drift.report.shapes import plain  # noqa: E402
from drift.report.state import RUN, Metric, RunState  # noqa: E402
from drift.report.statistics import FEWEST  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--write", type=Path, metavar="FILE")
    way.add_argument("--read", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    count = write(arguments.folder, arguments.write) if arguments.write else read(arguments.folder, arguments.read)
    print(f"{count} runs {'kept in ' + str(arguments.write) if arguments.write else 'laid out in ' + str(arguments.folder)}")


def write(folder: Path, file: Path) -> int:
    members = [member for place in sorted(folder.glob("*")) if place.is_dir() for member in members_of(place)]
    lines = [
        {"place": str(member.folder.relative_to(folder))} | plain(digest(member.state))
        for member in members
        if member.state.status == "finished"
    ]
    if not lines:
        raise UserError(f"{folder} holds no finished run. Expected the folder that study.py was given, with PHASE/RUN/{RUN} in it.")
    write_jsonl(file, lines)
    return len(lines)


def digest(run: RunState) -> RunState:
    """A run's state without what only its own report shows; per-prompt values give way to their mean."""
    return replace(with_items(run, lambda value: {"all prompts": value}), stages=[], notes={}, data={})


def read(folder: Path, file: Path) -> int:
    count = 0
    for line in read_jsonl(file):
        place = folder / line.pop("place") / RUN
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, plain(spread(state.read(upgraded(line)))))
            count += 1
    return count


def spread(run: RunState) -> RunState:
    """The mean over all prompts again as that of several, or a report would say that one prompt is too few."""
    return with_items(run, lambda value: {f"prompts, part {i}": value for i in range(FEWEST)})


def with_items(run: RunState, items: Callable[[Any], dict[str, float]]) -> RunState:
    """The same with other per-prompt values, made of the mean, where a metric has any."""

    def changed(metric: Metric) -> Metric:
        return replace(metric, per_item=items(metric.value)) if metric.per_item else metric

    points = [
        replace(
            point,
            scores={
                name: replace(scores, metrics={title: changed(metric) for title, metric in scores.metrics.items()})
                for name, scores in point.scores.items()
            },
        )
        for point in run.points
    ]
    return replace(run, points=points)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
