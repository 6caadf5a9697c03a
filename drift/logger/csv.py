"""Metrics as two CSV files in the run folder: steps.csv, one line per optimiser step as soon as it is done, and scores.csv."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.records import write_text


@dataclass(frozen=True, kw_only=True)
class Csv:
    """Writes the same files whether a stage is computed or found in the store."""

    def begin(self, folder: Path, title: dict[str, str], notes: dict[str, str]) -> "CsvFiles":
        """Called once when a run begins; files that an earlier attempt left in this folder are replaced."""
        return CsvFiles(folder)


class CsvFiles:
    """One run's metrics."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("steps.csv", "scores.csv"):
            (folder / name).unlink(missing_ok=True)

    def steps(self, iteration: int, rows: list[dict[str, float]]) -> None:
        """Metrics of the next optimiser steps of an iteration."""
        _append(self.folder / "steps.csv", [{"iteration": iteration} | row for row in rows])

    def scores(self, iteration: int, policy: str, metrics: Mapping[str, float | None]) -> None:
        """Metrics of an evaluated policy; those of a second or later evaluation are named EVALUATION/METRIC. The start model and
        the warm start, which is trained before the first iteration, are both of iteration 0."""
        _append(self.folder / "scores.csv", [{"iteration": iteration, "policy": policy, **metrics}])

    def samples(self, iteration: int, kind: str, rows: list[dict[str, Any]]) -> None:
        """Some examples or replies; they are in the run folder already."""

    def alarm(self, iteration: int, during: str, name: str, text: str) -> None:
        """A sign that training is going wrong; run.json has it already."""

    def output(self, name: str, iteration: int, paths: Sequence[Path], made_from: Sequence[str]) -> None:
        """An output of a stage: its `name` (log-…, records-…, examples-…, policy-… or scores-…, with the stage's key), its files or
        its folder, and the names of the earlier outputs that it was made from. The run folder links to it already."""

    def summary(self, results: dict[str, Any]) -> None:
        """The final results: gains, their intervals, the verdict; run.json has them by policy."""

    def end(self, failed: bool) -> None:
        """The run is over."""


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends lines. A new column is added to the whole file; cells without a value are empty."""
    known: list[str] = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            known = next(csv.reader(file))
    columns = list(dict.fromkeys([*known, *(name for row in rows for name in row)]))
    if columns != known:
        before = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if known else []
        write_text(path, _lines(columns, [{name: name for name in columns}, *before, *rows]))
    else:
        with open(path, "a", newline="", encoding="utf-8") as file:
            file.write(_lines(columns, rows))


def _lines(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, fieldnames=columns).writerows(rows)
    return text.getvalue()
