"""Metrics as two CSV files in the run folder: steps.csv, a row as soon as an optimiser step is done, and scores.csv."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Csv:
    """The same whether a stage is computed or found in the store."""

    def begin(self, folder: Path, title: dict[str, str], notes: dict[str, str]) -> "CsvFiles":
        """Called once when a run begins; what an earlier attempt in this folder left is written anew."""
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

    def scores(self, iteration: int, metrics: dict[str, Any]) -> None:
        """Metrics of an evaluated policy."""
        _append(self.folder / "scores.csv", [{"iteration": iteration} | {name: m["value"] for name, m in metrics.items()}])

    def samples(self, iteration: int, kind: str, rows: list[dict[str, Any]]) -> None:
        """Some pairs or replies; they are in the run folder already."""

    def alarm(self, iteration: int, during: str, name: str, text: str) -> None:
        """Training goes wrong, or may; run.json has it already."""

    def summary(self, found: dict[str, Any]) -> None:
        """What came out in the end: gains, their intervals, the verdict; run.json has them by policy."""

    def end(self, failed: bool) -> None:
        """The run is over."""


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """The first row ever written says which columns there are: a step that measures more than others is the first one."""
    new = not path.exists()
    with open(path, "a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if new else next(csv.reader(file)))
        if new:
            writer.writeheader()
        writer.writerows(rows)
