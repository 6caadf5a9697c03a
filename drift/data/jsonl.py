"""Feedback in the format of the official DRIFT data: one JSON object a line.

DSAT, a reply that displeased, with what the user said to it:
    {"prompt": [{"role": "user", "content": "Sum it up in two sentences."}],
     "rejected": [{"role": "assistant", "content": "It is a long story. ..."}],
     "user_preference": {"content": "No, I asked for two sentences."}}
SAT, a reply that pleased: the same with `chosen` instead of `rejected`. Both in one row: a reply that displeased and a better one.
Source: the field names that the official sampling script reads; its SAT files are not public, so `chosen` is our reading.
`user_preference` may be missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.data.conversations import Conversation, by_source, found, last_user, to_messages, to_text
from drift.data.rows import BadRow, each, files
from drift.records import digest


@dataclass(frozen=True, kw_only=True)
class Jsonl:
    """`path`: a .jsonl file, or a directory of them."""

    path: str

    name = "drift-jsonl"
    version = 2
    knows_truth = False
    uses_policy = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return files(self.path, "*.jsonl*")

    def conversations(self, file: Path) -> Iterator[Any]:
        return each(file, parse)


def parse(row: dict[str, Any], file: str, number: int) -> Conversation:
    """One row; raises BadRow."""
    prompt = last_user(to_messages(row.get("prompt"), role="role", content="content", field="prompt"), "prompt")
    rejected, chosen = (_reply(row, side) if row.get(side) is not None else None for side in ("rejected", "chosen"))
    reply = rejected if rejected is not None else chosen
    if reply is None:
        raise BadRow("rejected", "`rejected` (DSAT) or `chosen` (SAT): [{'role': 'assistant', 'content': text}]", "neither")
    messages = [*prompt, {"role": "assistant", "content": reply}]
    if row.get("user_preference") is not None:
        messages.append({"role": "user", "content": _feedback(row["user_preference"])})
    at = len(prompt)
    return Conversation(
        id=f"{file}:{number}",
        thread=digest(next(message["content"] for message in prompt if message["role"] == "user"))[:16],
        messages=messages,
        verdicts={at: by_source("dsat" if rejected is not None else "sat")},
        revised={at: chosen} if rejected is not None and chosen is not None else {},
        flags=(),
        file=file,
        row=number,
    )


def _reply(row: dict[str, Any], side: str) -> str:
    value = row[side]
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        raise BadRow(side, "[{'role': 'assistant', 'content': text}]", found(value))
    return to_text(value[0].get("content"), f"{side}[0].content")


def _feedback(value: Any) -> str:
    if not isinstance(value, dict):
        raise BadRow("user_preference", "{'content': text}", found(value))
    return to_text(value.get("content"), "user_preference.content")
