"""The tables that compare the runs of a study, with numbers as numbers, for a logger: the comparisons with intervals and p, the
metrics of all evaluations and what they ask, the benchmarks in full, how far judges agree with users, the paper's figures, alarms,
and samples."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.report import agreed, published, rated, results, samples, tables
from drift.report.foreign import BENCHMARKS, Reader, need_members
from drift.report.html import side_by_side
from drift.report.members import grouped, states_of
from drift.report.state import Member, RunState

Rows = Sequence[Mapping[str, Any]]


def tables_of(folder: Path, *, with_samples: bool) -> dict[str, Rows]:
    """Name -> rows, of the tables that are not empty."""
    reader = Reader()
    members = need_members(reader, folder)
    groups = grouped(members)
    runs = states_of(groups)
    places = dict.fromkeys([folder, *(member.folder for member in members)])
    found: dict[str, Rows] = {
        "comparisons": results.comparisons([member.state for member in members]),
        "scores": [*results.scores(runs), *rated.rows(groups, reader)],
        "evaluations": [{"run": label, "about": line} for label, states in runs.items() for line in _outlook(states)],
        "benchmarks": [{"folder": place.name} | _numbers(row) for place in places for row in reader.table(place, BENCHMARKS)],
        "judges": agreed.rows(groups, reader),
        "paper": [row for section in published.sections(folder, members, reader) for row in section["rows"]],
        "alarms": tables.alarms(runs),
        "samples": of_samples(groups, reader) if with_samples else [],
    }
    return {name: rows for name, rows in found.items() if rows}


def _outlook(states: Sequence[RunState]) -> list[str]:
    """What the evaluations of a group ask and can show: prompts, licences, judges."""
    return list(dict.fromkeys(line for state in states for line in state.outlook))


def of_samples(groups: Mapping[str, Sequence[Member]], reader: Reader) -> Rows:
    """A row per prompt: the logged reply with what the user said, and a column for the replies of each run."""
    rows = []
    for item in samples.items(side_by_side(groups), reader):
        logged = "\n".join(f"{name}: {text}" for name, text in item["logged"])
        row = {"kind": item["kind"], "prompt": item["prompt"], "logged": logged}
        for title, text, remark, _ in item["replies"]:
            row[title] = "\n".join([*filter(None, [row.get(title)]), f"{remark}: {text}" if remark else text])
        rows.append(row)
    return rows


def _numbers(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of a CSV file, with numbers where there are some."""
    return {name: float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text) else text for name, text in row.items()}
