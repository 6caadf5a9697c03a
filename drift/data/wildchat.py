"""WildChat-1M (allenai/WildChat-1M, ODC-BY): conversations of users with GPT-3.5 and GPT-4, without labels.

One row of its parquet files: {"conversation_hash": "...", "model": "gpt-4", "conversation": [{"role": "user", "content": "...",
"toxic": false, "redacted": false, "language": "English", ...}, ...], "turn": 2, "language": "English", "toxic": false,
"redacted": false, ...}. Source of the schema: the data set's card.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.data.conversations import Conversation, printable, to_messages
from drift.data.rows import each, files


@dataclass(frozen=True, kw_only=True)
class WildChat:
    """`path`: the hub data set, or a directory or file of it."""

    path: str

    name = "wildchat"
    version = 1
    knows_truth = False
    uses_policy = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return files(self.path, "*.parquet")

    def conversations(self, file: Path) -> Iterator[Any]:
        return each(file, parse)


def parse(row: dict[str, Any], file: str, number: int) -> Conversation:
    """One row; raises BadRow."""
    messages = to_messages(row.get("conversation"), role="role", content="content", field="conversation")
    turns = [row, *row["conversation"]]
    name = printable(row.get("conversation_hash") or row.get("conversation_id"))
    return Conversation(
        id=name,
        thread=name,
        messages=messages,
        verdicts=None,
        revised={},
        flags=tuple(flag for flag in ("toxic", "redacted") if any(turn.get(flag) for turn in turns)),
        file=file,
        row=number,
    )
