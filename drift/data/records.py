"""Records that `drift mine` wrote: one per line, with provenance, already checked and selected.

{"id": "QWJhYvA_0:3", "conversation": "QWJhYvA", "prompt": [{"role": "user", "content": "..."}], "reply": "...", "label": "dsat",
 "ended": true, "feedback": "No, shorter.", "revised": "...", "satisfied": false, "truth": null, "provenance": {...}}

Other programs may have edited the file since, so every field is checked. NaN, which data frames write for null, counts as null
where null is allowed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from drift.intake.aside import printable
from drift.intake.files import find_files
from drift.intake.rows import BadRow, parse_rows
from drift.intake.turns import quote, require_user_last, to_messages, to_text
from drift.records import Record

FIELDS = {field.name for field in fields(Record)}
LABELS = ("dsat", "sat", "silent")
TEXTS = ("source", "file", "label", "category", "detector", "evidence")  # fields of a provenance
MAY_BE_NULL = ("category", "evidence")


@dataclass(frozen=True, kw_only=True)
class Records:
    """`path`: the file, or a directory of them."""

    path: str

    name = "records"
    version = 3
    knows_truth = False
    uses_policy = False
    gives_records = True

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return find_files(self.path, "*.jsonl")

    def conversations(self, file: Path) -> Iterator[Any]:
        return parse_rows(file, parse, option="records", path=self.path, fields={}, ignore=())


def parse(row: dict[str, Any], file: str, number: int) -> Record:
    """One row; raises BadRow."""
    if row.keys() != FIELDS:
        wrong = sorted(map(str, row.keys() ^ FIELDS))[0]
        raise BadRow(wrong, f"the fields {', '.join(sorted(FIELDS))}, and no others", "missing" if wrong in FIELDS else "unknown")
    if row["label"] not in LABELS:
        raise BadRow("label", "dsat, sat or silent", quote(row["label"]))
    return Record(
        id=_text(row["id"], "id"),
        conversation=_text(row["conversation"], "conversation"),
        prompt=require_user_last(to_messages(row["prompt"], role="role", content="content", field="prompt"), "prompt"),
        reply=to_text(row["reply"], "reply"),
        label=row["label"],
        ended=_flag(row["ended"], "ended"),
        feedback=_or_null(row["feedback"], "feedback", to_text),
        revised=_or_null(row["revised"], "revised", to_text),
        satisfied=_flag(row["satisfied"], "satisfied"),
        truth=_or_null(row["truth"], "truth", _texts),
        provenance=_or_null(row["provenance"], "provenance", _provenance),
    )


def _or_null(value: Any, field: str, read: Callable[[Any, str], Any]) -> Any:
    return None if value is None or value != value else read(value, field)


def _flag(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise BadRow(field, "true or false", quote(value))
    return value


def _text(value: Any, field: str) -> str:
    """Checked text, unchanged: spaces in an id are kept."""
    if not isinstance(value, str) or not value or printable(value) != value:
        raise BadRow(field, "text that is not empty, in valid Unicode", quote(value))
    return value


def _texts(value: Any, field: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadRow(field, "an object of texts, or null", quote(value))
    return {_text(name, field): _text(part, f"{field}.{name}") for name, part in value.items()}


def _provenance(value: Any, field: str) -> dict[str, Any]:
    """Checked: texts in the fields TEXTS, whole numbers in `row` and `turn`, 0 to 1 in `confidence`; any plain value elsewhere."""
    if not isinstance(value, dict):
        raise BadRow(field, "an object, or null", quote(value))
    read: dict[str, Any] = {}
    for name, part in value.items():
        where = f"{field}.{_text(name, field)}"
        if part is None or part != part:
            if name in MAY_BE_NULL:
                read[name] = None
        elif name in TEXTS:
            read[name] = _text(part, where)
        elif name in ("row", "turn") and type(part) is not int:
            raise BadRow(where, "a whole number", quote(part))
        elif name == "confidence" and (type(part) not in (int, float) or not 0 <= part <= 1):
            raise BadRow(where, "a number from 0 to 1", quote(part))
        elif not isinstance(part, str | bool | int | float) or part in (math.inf, -math.inf) or printable(part) != str(part):
            raise BadRow(where, "text, a finite number, true, false or null", quote(part))
        else:
            read[name] = part
    return read
