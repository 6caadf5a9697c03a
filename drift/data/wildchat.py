"""WildChat-1M (allenai/WildChat-1M, ODC-BY): conversations of users with GPT-3.5 and GPT-4, unlabelled.

One row of its parquet files: {"conversation_hash": "...", "model": "gpt-4", "conversation": [{"role": "user", "content": "...",
"toxic": false, "redacted": false, "language": "English", ...}, ...], "turn": 2, "language": "English", "toxic": false,
"redacted": false, ...}. Source of the schema: the data set's card.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.intake.aside import printable
from drift.intake.conversations import Conversation
from drift.intake.fields import is_empty
from drift.intake.files import find_files
from drift.intake.rows import parse_rows
from drift.intake.turns import to_turns

FIELDS = {
    "": frozenset({"conversation", "openai_moderation", "detoxify_moderation", "system", "system_prompt", "system_message"}),
    "conversation": frozenset({"role", "content", "toxic", "redacted"}),
}


@dataclass(frozen=True, kw_only=True)
class WildChat:
    """`path`: the hub data set, or a directory or file with a copy of it. `ignore_fields`: fields to ignore."""

    path: str
    ignore_fields: list[str]

    name = "wildchat"
    version = 2
    knows_truth = False
    uses_policy = False
    gives_records = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return find_files(self.path, "*")

    def conversations(self, file: Path) -> Iterator[Any]:
        return parse_rows(file, parse, option="wildchat", path=self.path, fields=FIELDS, ignore=self.ignore_fields)


def parse(row: dict[str, Any], file: str, number: int) -> Conversation:
    """One row; raises BadRow."""
    read = to_turns(row.get("conversation"), role="role", content="content", field="conversation", system=row)
    turns = [row, *row["conversation"]]
    given = (row[key] for key in ("conversation_hash", "conversation_id") if not is_empty(row.get(key)))
    name = printable(next(given, f"{file}:{number}"))
    return Conversation(
        id=name,
        thread=name,
        messages=read.messages,
        opinions=None,
        revised={},
        flags=tuple(flag for flag in ("toxic", "redacted") if any(turn.get(flag) for turn in turns)),
        file=file,
        row=number,
        from_tools=read.from_tools,
    )
