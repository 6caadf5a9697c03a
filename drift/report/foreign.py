"""Reads run folders that may come from somebody else: follows no link out of them, limits sizes, and skips malformed files with a
message.

A run's folder links to its results in the store and to nothing else. So a link is followed only if it stays in the folder, or leads
to a file of the same name in a stage of a store, whose folder name is a hash that can't be guessed.
"""

import csv
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.records import Record
from drift.report import state
from drift.report.lines import Logged
from drift.report.previous import upgraded
from drift.report.shapes import build, hints, mismatch
from drift.report.state import RUN, Member, RunState
from drift.store import MANIFEST

SETTINGS, STEPS = "config.yaml", "steps.csv"
BENCHMARKS = "benchmarks/benchmarks.csv"  # written by `drift evaluate`
MAX_BYTES = {RUN: 2**28, SETTINGS: 2**18, STEPS: 2**26}
MAX_BYTES_JSONL = 2**30


class Malformed(ValueError):
    """A file is not what a run writes. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """`problems`: a sentence about every file that was skipped so far."""

    problems: dict[Path, str] = field(default_factory=dict)

    def find(self, folder: Path, name: str) -> Path | None:
        """The file of that name in a run's folder, itself or behind a link that may be followed; None without one."""
        path = folder / name
        try:
            if not path.exists():  # samples.gone handles dead links
                return None
            real = path.resolve()
            if not real.is_relative_to(folder.resolve()) and not _in_store(real, path.name):
                raise Malformed(f"it is a link to {real}, outside of this folder. Copy the file itself there")
            if not real.is_file():
                raise Malformed("it is not a regular file")
            if (size := real.stat().st_size) > (limit := MAX_BYTES.get(path.name, MAX_BYTES_JSONL)):
                raise Malformed(f"it has {size} bytes, more than {limit}")
        except (OSError, Malformed) as error:
            self.skip(path, error)
            return None
        return real

    def lines(self, folder: Path, name: str, kind: Any, convert: Callable[[Any], Any] = lambda row: row) -> list[Any]:
        """The lines of a jsonl file as objects of `kind` (see lines.py). `convert` is applied to the data of each line before it is
        checked."""
        return [build(row, kind) for row in self._rows(folder, name, kind, convert)]

    def records(self, folder: Path, name: str) -> list[Record]:
        return [Record(**{key: row[key] for key in hints(Logged)}) for row in self._rows(folder, name, Logged)]

    def _rows(self, folder: Path, name: str, kind: Any, convert: Callable[[Any], Any] = lambda row: row) -> list[dict[str, Any]]:
        """The data of the lines; empty if any of them is malformed."""
        if (path := self.find(folder, name)) is None:
            return []
        rows = []
        try:
            with open(path, encoding="utf-8") as lines:
                for i, line in enumerate(lines, 1):
                    rows.append(convert(_parse(line)))
                    if problem := mismatch(rows[-1], kind):
                        raise Malformed(f"line {i}, {problem}")
        except (OSError, ValueError, RecursionError) as error:
            self.skip(folder / name, error)
            return []
        return rows

    def steps(self, folder: Path) -> list[dict[str, float]]:
        """The metrics of every optimiser step of a run, in order."""
        if (path := self.find(folder, STEPS)) is None:
            return []
        try:
            with open(path, newline="", encoding="utf-8") as text:
                rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(text)]
            if not all(row.get(name, -1) in range(10**7) for row in rows for name in ("iteration", "step")):
                raise Malformed("a row has no iteration or no step")
        except (OSError, ValueError, TypeError, csv.Error) as error:
            self.skip(folder / STEPS, error)
            return []
        return rows

    def table(self, folder: Path, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file, as text."""
        if (path := self.find(folder, name)) is None:
            return []
        try:
            with open(path, newline="", encoding="utf-8") as text:
                rows = [{column: cell for column, cell in row.items() if cell} for row in csv.DictReader(text)]
            if not all(isinstance(part, str) for row in rows for item in row.items() for part in item):
                raise Malformed("a row has more cells than there are columns")
        except (OSError, ValueError, csv.Error) as error:
            self.skip(folder / name, error)
            return []
        return rows

    def json(self, folder: Path, name: str, kind: Any) -> Any:
        """The content of a JSON file as an object of `kind`; None without one, or if it is malformed."""
        if (path := self.find(folder, name)) is None:
            return None
        try:
            value = _parse(path.read_text(encoding="utf-8"))
            if problem := mismatch(value, kind):
                raise Malformed(problem)
        except (OSError, ValueError, RecursionError) as error:
            self.skip(folder / name, error)
            return None
        return build(value, kind)

    def text(self, folder: Path, name: str) -> str:
        """The content of a small file; "" without one."""
        path = self.find(folder, name)
        return path.read_text(encoding="utf-8", errors="replace") if path is not None else ""

    def members(self, folder: Path) -> list[Member]:
        """The members of a sweep's folder; the one run of a run's folder."""
        files = [folder / RUN] if (folder / RUN).exists() else _runs(folder)
        states = {file.parent: self.state(folder, file) for file in files}
        return [Member(folder=run_folder, state=state) for run_folder, state in states.items() if state is not None]

    def state(self, folder: Path, file: Path) -> RunState | None:
        """The content of a run.json in `folder`, or below it."""
        if (path := self.find(folder, str(file.relative_to(folder)))) is None:
            return None
        try:
            return state.read(upgraded(_parse(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, RecursionError) as error:
            self.skip(file, error)
            return None

    def skip(self, path: Path, error: Exception) -> None:
        """Notes that a file is skipped, and why."""
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:300]
        self.problems.setdefault(path, f"{path} was skipped, because it is not what a run writes: {reason}.")


def members_of(folder: Path) -> list[Member]:
    return Reader().members(folder)


def iterations(folder: Path, name: str) -> list[str]:
    """The names of a run's folders iteration_N that have a file of that name, in order."""
    names = [path.name for path in folder.glob("iteration_*") if re.fullmatch("iteration_[0-9]{1,9}", path.name)]
    return sorted((place for place in names if os.path.lexists(folder / place / name)), key=lambda place: int(place.split("_")[1]))


def _runs(folder: Path) -> list[Path]:
    """The run.json files of a sweep's members in order, however deep hydra.sweep.subdir puts them."""
    sweep = (folder / "multirun.yaml").is_file()
    return sorted(folder.glob(f"**/{RUN}" if sweep else f"*/{RUN}"), key=natural)


def natural(file: Path) -> list[tuple[int, str]]:
    """A sort key with which 10-drift comes after 9-drift."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(file.parent))]


def _in_store(file: Path, name: str) -> bool:
    return file.name == name and bool(re.fullmatch("[0-9a-f]{24}", file.parent.name)) and (file.parent / MANIFEST).is_file()


def _parse(text: str) -> Any:
    """The value of a JSON text, with unpaired surrogates, which can't be written to a file, as question marks."""
    value = json.loads(text)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def need_members(reader: Reader, folder: Path) -> list[Member]:
    """The runs of a folder; refuses a folder without a readable run."""
    if not (members := reader.members(folder)):
        reason = next(iter(reader.problems.values()), f"{folder} contains neither a run ({RUN}) nor a sweep of runs (*/{RUN}).")
        raise UserError(f"{reason} Expected a folder in outputs/.")
    return members
