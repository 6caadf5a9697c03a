"""Chat logs in OpenAI's form, one conversation a row, with or without what users clicked or wrote.

    {"id": "c17", "messages": [{"role": "user", "content": "..."},
                               {"role": "assistant", "content": "...", "feedback": "down"}, ...]}

An assistant message may have `feedback` (or `thumbs`, `rating`): "up"/"down", "positive"/"negative", "good"/"bad", true/false,
1/-1, or null. If any message of a conversation has one, nobody else judges the conversation; otherwise the miner reads the users'
turns. `comment`, the user's words to the last reply, stands for the user's next turn. Source: our own reading of what chat products
export; the message form is OpenAI's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.data.conversations import Conversation, Label, by_source, found, printable, to_messages, to_text
from drift.data.rows import BadRow, each, files

NAMES = ("feedback", "thumbs", "rating")
UP, DOWN = ("up", "positive", "good", "like"), ("down", "negative", "bad", "dislike")


@dataclass(frozen=True, kw_only=True)
class Messages:
    """`path`: a .jsonl, .json or .parquet file, or a directory of them."""

    path: str

    name = "messages"
    version = 1
    knows_truth = False
    uses_policy = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return files(self.path, "*")

    def conversations(self, file: Path) -> Iterator[Any]:
        return each(file, parse)


def parse(row: dict[str, Any], file: str, number: int) -> Conversation:
    """One row; raises BadRow."""
    messages = to_messages(row.get("messages"), role="role", content="content", field="messages")
    clicked: dict[int, Label] = {
        i: label for i, message in enumerate(row["messages"]) if (label := _label(message, f"messages[{i}]")) is not None
    }
    last = row["messages"][-1]
    if clicked and last["role"] == "assistant" and last.get("comment") is not None:
        messages.append({"role": "user", "content": to_text(last["comment"], f"messages[{len(messages) - 1}].comment")})
    name = printable(row["id"]) if row.get("id") is not None else f"{file}:{number}"
    return Conversation(
        id=name,
        thread=name,
        messages=messages,
        verdicts={i: by_source(label) for i, label in clicked.items()} if clicked else None,
        revised={},
        flags=(),
        file=file,
        row=number,
    )


def _label(message: dict[str, Any], field: str) -> Label | None:
    """What was clicked on a message."""
    name = next((name for name in NAMES if message.get(name) is not None), None)
    if name is None:
        return None
    if message["role"] != "assistant":
        raise BadRow(f"{field}.{name}", "feedback on assistant messages only", f"on one by the {message['role']}")
    value = message[name].lower() if isinstance(message[name], str) else message[name]
    if value is True or value == 1 or value in UP:
        return "sat"
    if value is False or value in (-1, 0) or value in DOWN:
        return "dsat"
    raise BadRow(f"{field}.{name}", "up or down, positive or negative, true or false, 1 or -1", found(message[name]))
