"""Feedback in the format of the official DRIFT data: one JSON object per line.

DSAT, a reply that the user disliked, with the user's feedback:
    {"prompt": [{"role": "user", "content": "Sum it up in two sentences."}],
     "rejected": [{"role": "assistant", "content": "It is a long story. ..."}],
     "user_preference": {"content": "No, I asked for two sentences."}}
SAT, a reply that the user liked: the same with `chosen` instead of `rejected`. Both in one row: a disliked reply and a better one.
Source: the field names in the official sampling script; its SAT files are not public, so `chosen` is our assumption.
`user_preference` may be missing. A side may also be the whole conversation; its last message is then the reply.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.intake.conversations import Conversation, by_source
from drift.intake.fields import is_empty
from drift.intake.files import find_files
from drift.intake.rows import BadRow, parse_rows
from drift.intake.turns import one_reply, quote, require_user_last, to_messages, to_text
from drift.records import digest

FIELDS = {
    "": frozenset({"prompt", "rejected", "chosen", "user_preference", "system", "system_prompt", "system_message"}),
    **dict.fromkeys(("prompt", "rejected", "chosen", "user_preference"), frozenset({"role", "content"})),
}


@dataclass(frozen=True, kw_only=True)
class Jsonl:
    """`path`: a .jsonl file, a directory of them, or a hub data set in the cache, from which `config` and `split` select (null:
    all). `ignore_fields`: fields to ignore."""

    path: str
    config: str | None
    split: str | None
    ignore_fields: list[str]

    name = "drift-jsonl"
    version = 3
    knows_truth = False
    uses_policy = False
    gives_records = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return find_files(self.path, "*", config=self.config, split=self.split)

    def conversations(self, file: Path) -> Iterator[Any]:
        return parse_rows(file, parse, option="jsonl", path=self.path, fields=FIELDS, ignore=self.ignore_fields)


def parse(row: dict[str, Any], file: str, number: int) -> Conversation:
    """One row; raises BadRow."""
    prompt = require_user_last(to_messages(row.get("prompt"), role="role", content="content", field="prompt", system=row), "prompt")
    rejected, chosen = (
        None if is_empty(row.get(side)) else one_reply(row[side], side, prompt, role="role", content="content")
        for side in ("rejected", "chosen")
    )
    reply = rejected if rejected is not None else chosen
    if reply is None:
        raise BadRow("rejected", "`rejected` (DSAT) or `chosen` (SAT): [{'role': 'assistant', 'content': text}]", "neither")
    if rejected == chosen:
        raise BadRow("rejected", "a different reply than `chosen`", "the same text")
    at, feedback = len(prompt), row.get("user_preference")
    return Conversation(
        id=f"{file}:{number}",
        thread=digest(next(message["content"] for message in prompt if message["role"] == "user"))[:16],
        messages=[*prompt, {"role": "assistant", "content": reply}],
        opinions={at: by_source("dsat" if rejected is not None else "sat")},
        revised={at: chosen} if rejected is not None and chosen is not None else {},
        flags=(),
        file=file,
        row=number,
        comments={} if is_empty(feedback) else {at: _feedback(feedback)},
    )


def _feedback(value: Any) -> str:
    if not isinstance(value, dict):
        raise BadRow("user_preference", "{'content': text}", quote(value))
    return to_text(value.get("content"), "user_preference.content")
