"""Metrics as two CSV files in the run folder: steps.csv (every optimiser step) and scores.csv (every evaluated policy)."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Csv:
    """Writes as iterations finish, whether their stages were computed or found in the store."""

    def begin(self, folder: Path) -> None:
        """Called once when a run begins; what an earlier attempt in this folder left is written anew."""
        for name in ("steps.csv", "scores.csv"):
            (folder / name).unlink(missing_ok=True)

    def steps(self, folder: Path, iteration: int, rows: list[dict[str, float]]) -> None:
        _append(folder / "steps.csv", [{"iteration": iteration} | row for row in rows])

    def scores(self, folder: Path, iteration: int, metrics: dict[str, Any]) -> None:
        _append(folder / "scores.csv", [{"iteration": iteration} | {name: m["value"] for name, m in metrics.items()}])


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)
