"""Reads the folders of runs as what somebody may have sent: no link leads out of them, nothing is larger than it may be, and
what is odd is left out with a sentence.

A run's folder links to its results in the store, and to nothing else. So a link is followed if it stays in the folder, or leads
to a file of the same name in a stage of a store, whose folder is named by a hash that nobody guesses.
"""

import csv
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.records import Record
from drift.report.shapes import Logged, wrong, wrong_state
from drift.store import MANIFEST

RUN, SETTINGS, STEPS = "run.json", "config.yaml", "steps.csv"
MOST = {RUN: 2**28, SETTINGS: 2**18, STEPS: 2**26}  # bytes
MOST_ROWS = 2**30  # of a file of rows

State = dict[str, Any]


class Odd(ValueError):
    """A file is not what a run writes; says why."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """`odd`: a sentence on every file that was left out so far."""

    odd: dict[Path, str] = field(default_factory=dict)

    def find(self, folder: Path, name: str) -> Path | None:
        """The file of that name in a run's folder, itself or behind a link that may be followed."""
        path = folder / name
        try:
            if not path.exists():  # a dead link is another matter: samples.gone
                return None
            real = path.resolve()
            if not real.is_relative_to(folder.resolve()) and not _in_store(real, path.name):
                raise Odd(f"it is a link to {real}, outside of this folder. Copy the file itself there")
            if not real.is_file():
                raise Odd("it is no plain file")
            if (size := real.stat().st_size) > (most := MOST.get(path.name, MOST_ROWS)):
                raise Odd(f"it has {size} bytes, more than {most}")
        except (OSError, Odd) as error:
            self.leave_out(path, error)
            return None
        return real

    def rows(self, folder: Path, name: str, hint: Any) -> list[dict[str, Any]]:
        """The lines of a jsonl file, each as `hint` says (see shapes.py); none of a file that has another one."""
        if (path := self.find(folder, name)) is None:
            return []
        found = []
        try:
            with open(path, encoding="utf-8") as lines:
                for i, line in enumerate(lines, 1):
                    found.append(_parse(line))
                    if said := wrong(found[-1], hint):
                        raise Odd(f"line {i}, {said}")
        except (OSError, ValueError, RecursionError) as error:
            self.leave_out(folder / name, error)
            return []
        return found

    def records(self, folder: Path, name: str) -> list[Record]:
        return [Record(**{key: row[key] for key in Logged.__annotations__}) for row in self.rows(folder, name, Logged)]

    def steps(self, folder: Path) -> list[dict[str, float]]:
        """Metrics of every optimiser step of a run, in order."""
        if (path := self.find(folder, STEPS)) is None:
            return []
        try:
            with open(path, newline="", encoding="utf-8") as text:
                rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(text)]
            if not all(row.get(name, -1) in range(10**7) for row in rows for name in ("iteration", "step")):
                raise Odd("a row without iteration and step")
        except (OSError, ValueError, TypeError, csv.Error) as error:
            self.leave_out(folder / STEPS, error)
            return []
        return rows

    def text(self, folder: Path, name: str) -> str:
        """The whole of a small file; "" without it."""
        path = self.find(folder, name)
        return path.read_text(encoding="utf-8", errors="replace") if path is not None else ""

    def members(self, folder: Path) -> dict[Path, State]:
        """The folders of a sweep's members, or of the one run that it is -> what they say of themselves."""
        files = [folder / RUN] if (folder / RUN).exists() else _runs(folder)
        states = {file.parent: self.state(folder, file) for file in files}
        return {place: state for place, state in states.items() if state is not None}

    def state(self, folder: Path, file: Path) -> State | None:
        """The content of a run.json in `folder`, or below it."""
        if (path := self.find(folder, str(file.relative_to(folder)))) is None:
            return None
        try:
            state = first_evaluation(_parse(path.read_text(encoding="utf-8")))
            if said := wrong_state(state):
                raise Odd(said)
        except (OSError, ValueError, RecursionError) as error:
            self.leave_out(file, error)
            return None
        return state

    def leave_out(self, path: Path, why: Exception) -> None:
        """Notes that a file is left out."""
        said = "its nesting has no end" if isinstance(why, RecursionError) else " ".join(str(why).split())[:300]
        self.odd.setdefault(path, f"{path} is left out, as it is not what a run writes: {said}.")


def first_evaluation(state: Any) -> Any:
    """A run.json with the scores of each point's first evaluation alone, which is what a report shows."""
    if not isinstance(state, dict) or not isinstance(state.get("points"), list):
        return state
    points = [dict(point) if isinstance(point, dict) else point for point in state["points"]]
    for point in points:
        if isinstance(point, dict) and isinstance(scores := point.get("scores"), dict) and scores and "headline" not in scores:
            point["scores"] = next(iter(scores.values()))
    return state | {"points": points}


def members_of(folder: Path) -> dict[Path, State]:
    return Reader().members(folder)


def iterations(folder: Path, name: str) -> list[Path]:
    """iteration_N/NAME of a run's folder, in their order."""
    files = {file: file.relative_to(folder).parts[0] for file in folder.glob(f"iteration_*/{name}")}
    found = {file: int(place[10:]) for file, place in files.items() if re.fullmatch("iteration_[0-9]{1,9}", place)}
    return sorted(found, key=found.__getitem__)


def _runs(folder: Path) -> list[Path]:
    """The run.json of a sweep's members in their order, however deep hydra.sweep.subdir puts them."""
    sweep = (folder / "multirun.yaml").is_file()
    return sorted(folder.glob(f"**/{RUN}" if sweep else f"*/{RUN}"), key=natural)


def natural(file: Path) -> list[tuple[int, str]]:
    """10-drift comes after 9-drift."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(file.parent))]


def _in_store(file: Path, name: str) -> bool:
    return file.name == name and bool(re.fullmatch("[0-9a-f]{24}", file.parent.name)) and (file.parent / MANIFEST).is_file()


def _parse(text: str) -> Any:
    """The value of a JSON text; halves of a character, which no file can hold, as question marks."""
    found = json.loads(text)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    return found


def need_members(reader: Reader, folder: Path) -> dict[Path, State]:
    """The runs of a folder; refuses one that has none that can be read."""
    if not (members := reader.members(folder)):
        why = next(iter(reader.odd.values()), f"{folder} holds neither a run ({RUN}) nor a sweep of runs (*/{RUN}).")
        raise UserError(f"{why} Expected a folder in outputs/.")
    return members
