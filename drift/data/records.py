"""Records that `python -m drift mine` wrote: one a line, with their provenance, checked and chosen already.

{"id": "QWJhYvA_0:3", "conversation": "QWJhYvA", "prompt": [{"role": "user", "content": "..."}], "reply": "...", "label": "dsat",
 "ended": true, "feedback": "No, shorter.", "revised": "...", "satisfied": false, "truth": null, "provenance": {...}}
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from drift.data.files import files
from drift.data.rows import BadRow, each
from drift.data.turns import found, last_user, to_messages, to_text
from drift.records import Record

FIELDS = {field.name for field in fields(Record)}


@dataclass(frozen=True, kw_only=True)
class Records:
    """`path`: the file, or a directory of them."""

    path: str

    name = "records"
    version = 1
    knows_truth = False
    uses_policy = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return files(self.path, "*.jsonl")

    def conversations(self, file: Path) -> Iterator[Any]:
        return each(file, parse, option="records", path=self.path, fields={}, ignore=())


def parse(row: dict[str, Any], file: str, number: int) -> Record:
    """One row; raises BadRow."""
    if row.keys() != FIELDS:
        wrong = sorted(row.keys() ^ FIELDS)[0]
        raise BadRow(wrong, f"the fields {', '.join(sorted(FIELDS))}, and no others", "missing" if wrong in FIELDS else "unknown")
    if row["label"] not in ("dsat", "sat"):
        raise BadRow("label", "dsat or sat", found(row["label"]))
    prompt = last_user(to_messages(row["prompt"], role="role", content="content", field="prompt"), "prompt")
    return Record(**(row | {"prompt": prompt, "reply": to_text(row["reply"], "reply")}))
