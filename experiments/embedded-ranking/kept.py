"""The figures of finished runs in one small file, so that a study goes on (or shows its tables) on another machine.

    python experiments/embedded-ranking/kept.py FOLDER --write FILE   the finished runs below a study's folder
    python experiments/embedded-ranking/kept.py FOLDER --read FILE    lays them out there, where no run of that name is

Of every metric the mean over prompts is kept: enough for tables over several seeds, not for a comparison of two runs alone.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from drift.errors import UserError  # noqa: E402
from drift.journal import RUN  # noqa: E402
from drift.records import read_jsonl, write_json, write_jsonl  # noqa: E402
from drift.report.statistics import FEWEST  # noqa: E402

DROPPED = ("stages", "notes", "data")


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
    states = {place: json.loads(place.read_text(encoding="utf-8")) for place in sorted(folder.glob(f"*/*/{RUN}"))}
    lines = [
        {"place": str(place.parent.relative_to(folder))} | digest(state)
        for place, state in states.items()
        if state["status"] == "finished"
    ]
    if not lines:
        raise UserError(f"{folder} holds no finished run. Expected the folder that study.py was given, with PHASE/RUN/{RUN} in it.")
    write_jsonl(file, lines)
    return len(lines)


def digest(state: dict[str, Any]) -> dict[str, Any]:
    """A run's state without what only its own report shows; per-prompt values give way to their mean."""
    points = []
    for point in state["points"]:
        if "scores" in point:
            metrics = {}
            for name, content in point["scores"]["metrics"].items():
                mean = {"per_item": {"all prompts": content["value"]}} if content.get("per_item") else {}
                metrics[name] = content | mean
            point = point | {"scores": point["scores"] | {"metrics": metrics}}
        points.append(point)
    return state | {"points": points} | {name: type(state[name])() for name in DROPPED}


def read(folder: Path, file: Path) -> int:
    count = 0
    for line in read_jsonl(file):
        place = folder / line.pop("place") / RUN
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, spread(line))
            count += 1
    return count


def spread(state: dict[str, Any]) -> dict[str, Any]:
    """The mean over all prompts again as that of several, or a report would say that one prompt is too few."""
    for metric in (metric for point in state["points"] if "scores" in point for metric in point["scores"]["metrics"].values()):
        if metric.get("per_item"):
            metric["per_item"] = {f"prompts, part {i}": metric["value"] for i in range(FEWEST)}
    return state


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
