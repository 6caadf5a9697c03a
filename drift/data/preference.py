"""Preference pairs in TRL's format, conversational or plain: users disliked the rejected reply and liked the chosen one.

    {"prompt": [{"role": "user", "content": "..."}], "chosen": [{"role": "assistant", "content": "..."}],
     "rejected": [...]}
    {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [the same prompt, a different reply]}
    {"prompt": "...", "chosen": "...", "rejected": "..."}

`ultrafeedback_binarized` has the second form with an extra `prompt` text. A plain prompt whose text contains turns ("Human: …
Assistant:", as in HH-RLHF) is set aside unless `turn_markers` says to keep it. Source: TRL's documentation of data set formats.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from drift.intake.conversations import Conversation, by_source
from drift.intake.fields import decode_list, is_empty
from drift.intake.files import find_files
from drift.intake.rows import BadRow, parse_rows
from drift.intake.turns import one_reply, quote, require_user_last, system_message, to_messages, to_text
from drift.records import Message, digest

SCORES = ("score_{}", "{}_score", "{}-score", "rating_{}", "{}_rating", "{}-rating")  # of "chosen" and of "rejected"
BOTH = [name.format(side) for side in ("chosen", "rejected") for name in SCORES]
FIELDS = {
    "": frozenset({"prompt", "chosen", "rejected", "messages", "system", "system_prompt", "system_message", *BOTH}),
    **dict.fromkeys(("prompt", "chosen", "rejected"), frozenset({"role", "content"})),
}
ASKS, ANSWERS = (re.compile(rf"^\W*({names})\W*:", re.MULTILINE | re.IGNORECASE) for names in ("human|user", "assistant|bot|ai"))


@dataclass(frozen=True, kw_only=True)
class Preference:
    """`path`: file, directory, or hub data set in the cache, from which `config` and `split` ("train_prefs") select (null: all).
    `turn_markers`: what to do with a prompt text that contains turns. `ignore_fields`: fields to ignore."""

    path: str
    config: str | None
    split: str | None
    turn_markers: Literal["refuse", "keep"]
    ignore_fields: list[str]

    name = "preference"
    version = 2
    knows_truth = False
    uses_policy = False
    gives_records = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return find_files(self.path, "*", config=self.config, split=self.split)

    def conversations(self, file: Path) -> Iterator[Any]:
        read = partial(parse, marked=self.turn_markers == "keep")
        return parse_rows(file, read, option="preference", path=self.path, fields=FIELDS, ignore=self.ignore_fields)


def parse(row: dict[str, Any], file: str, number: int, *, marked: bool) -> Conversation:
    """One row; raises BadRow. `marked`: prompt texts may contain turns."""
    (prompt, chosen), (other_prompt, rejected) = (_side(row, side, marked) for side in ("chosen", "rejected"))
    if prompt != other_prompt:
        raise BadRow("rejected", "the same prompt as in `chosen`", "a different one")
    if chosen == rejected:
        raise BadRow("rejected", "a different reply than `chosen`", "the same text")
    for name in SCORES:
        better, worse = (_score(row, name.format(side)) for side in ("chosen", "rejected"))
        if better is not None and worse is not None and better <= worse:
            raise BadRow(name.format("chosen"), f"more than {name.format('rejected')}", f"{better:g} and {worse:g}")
    at = len(prompt)
    return Conversation(
        id=f"{file}:{number}",
        thread=digest([message["content"] for message in prompt])[:16],
        messages=[*prompt, {"role": "assistant", "content": rejected}],
        opinions={at: by_source("dsat")},
        revised={at: chosen},
        flags=(),
        file=file,
        row=number,
    )


def _score(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if is_empty(value):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRow(name, "a number", quote(value)) from error


def _side(row: dict[str, Any], side: str, marked: bool) -> tuple[list[Message], str]:
    """(prompt, reply) of `chosen` or `rejected`."""
    value, prompt = decode_list(row.get(side), "role"), decode_list(row.get("prompt"), "role")
    if isinstance(prompt, list):
        before = require_user_last(to_messages(prompt, role="role", content="content", field="prompt", system=row), "prompt")
        value = {"role": "assistant", "content": value} if isinstance(value, str) else value
        return before, one_reply(value, side, before, role="role", content="content")
    if isinstance(value, str) or (isinstance(prompt, str) and isinstance(value, list) and len(value) == 1):
        text = to_text(prompt, "prompt")
        if not marked and ASKS.search(text) and ANSWERS.search(text):
            raise BadRow(
                "prompt", "one message", "turns marked in its text", reason="turns in one text",
                remedy="write the turns as [{role, content}], or keep the text as it is: data.turn_markers=keep",
            )  # fmt: skip
        before = [*system_message(row), {"role": "user", "content": text}]
        if isinstance(value, str):
            return before, to_text(value, side)
        return before, one_reply(value, side, before, role="role", content="content")
    messages = to_messages(value, role="role", content="content", field=side, system=row)
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise BadRow(side, "a prompt and a last message by the assistant", f"{len(messages)} messages")
    return messages[:-1], messages[-1]["content"]
