"""Shows when finished runs raise alarms, with the thresholds of conf/config.yaml or with others: a tool to choose thresholds.

    python experiments/embedded-ranking/replay.py RUN_FOLDER... [alarms.chosen_shift=-.5]
    python experiments/embedded-ranking/replay.py RUN_FOLDER... --keep FILE     saves what a replay needs
    python experiments/embedded-ranking/replay.py FILE                          replays a saved file

A run's folder needs its run.json and its steps.csv.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from drift.alarms import Alarms  # noqa: E402
from drift.compose import compose  # noqa: E402
from drift.config import build  # noqa: E402
from drift.console import table  # noqa: E402
from drift.errors import UserError  # noqa: E402
from drift.records import read_jsonl, write_jsonl  # noqa: E402
from drift.report.foreign import Reader, need_members  # noqa: E402
from drift.report.members import metrics_of  # noqa: E402

WATCHED = ("utility", "words", "distinct-2", "missing ends", "perplexity under start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", help="run folders, or a file that --keep wrote; and settings")
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    overrides = [place for place in arguments.places if "=" in place]
    runs = [run for place in arguments.places if "=" not in place for run in read(Path(place))]
    if arguments.keep:
        write_jsonl(arguments.keep, runs)
    alarms = build(compose(overrides)).alarms
    rows = [row for run in runs for row in replay(alarms, run)]
    if not rows:
        raise UserError("Nothing to replay. Expected folders of runs in which a policy was evaluated, or a file that --keep wrote.")
    table(rows)


def read(place: Path) -> list[dict[str, Any]]:
    """What the replay needs of a run: per evaluated policy its metrics, and the steps and counts that led to it."""
    if place.is_file():
        return read_jsonl(place)
    if missing := [name for name in ("run.json", "steps.csv") if not (place / name).is_file()]:
        raise UserError(f"{place} has no {missing[0]}. Expected the folder of a run that trained, or a file that --keep wrote.")
    (member,) = need_members(Reader(), place)
    with open(place / "steps.csv", encoding="utf-8", newline="") as file:
        steps = list(csv.DictReader(file))
    policies = [
        {
            "iteration": point.iteration,
            "steps": [
                {name: round(float(step[name]), 4) for name in ("chosen_shift", "entropy")}
                for step in steps
                if int(step["iteration"]) == point.iteration and point.name != "start"
            ],
            "counts": point.counts,
            "metrics": {name: round(value, 4) for name in WATCHED if (value := metrics_of(point.scores).get(name)) is not None},
        }
        for point in member.state.points
        if point.scores
    ]
    return [{"run": place.name, "policies": policies}]


def replay(alarms: Alarms, run: dict[str, Any]) -> list[dict[str, str]]:
    """A row per policy: its utility, and the alarms that sounded on the way to it and at it, with when."""
    rows = []
    for policy in run["policies"]:
        now, start = policy["metrics"], run["policies"][0]["metrics"]
        found = {name: "sampling" for name in (alarms.in_sampling(policy["counts"]) if policy["counts"] else {})}
        for done in range(1, len(policy["steps"]) + 1):
            found |= {name: f"step {done}" for name in alarms.in_training(policy["steps"][:done]) if name not in found}
        found |= {name: "evaluation" for name in alarms.in_evaluation(now, start)}
        watched = {name: f"{value:.3f}" if (value := policy["metrics"].get(name)) is not None else "-" for name in WATCHED}
        sounded = ", ".join(f"{name} ({when})" for name, when in found.items())
        rows.append({"run": run["run"], "iteration": str(policy["iteration"])} | watched | {"alarms": sounded})
    return rows


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
