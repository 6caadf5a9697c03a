"""Preference pairs in TRL's format, conversational or plain: the rejected reply displeased, the chosen one pleased.

    {"prompt": [{"role": "user", "content": "..."}], "chosen": [{"role": "assistant", "content": "..."}],
     "rejected": [...]}
    {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [the same prompt, another reply]}
    {"prompt": "...", "chosen": "...", "rejected": "..."}

`ultrafeedback_binarized` has the second form with a `prompt` text beside it. Source: TRL's documentation of data set formats.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.data.conversations import Conversation, by_source, last_user, to_messages, to_text
from drift.data.rows import BadRow, each, files
from drift.records import Message, digest


@dataclass(frozen=True, kw_only=True)
class Preference:
    """`path`: file, directory, or hub data set in the cache. `split`: part of the file names to use ("train_prefs")."""

    path: str
    split: str

    name = "preference"
    version = 1
    knows_truth = False
    uses_policy = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return files(self.path, f"*{self.split}*")

    def conversations(self, file: Path) -> Iterator[Any]:
        return each(file, parse)


def parse(row: dict[str, Any], file: str, number: int) -> Conversation:
    """One row; raises BadRow."""
    (prompt, chosen), (other, rejected) = (_side(row, side) for side in ("chosen", "rejected"))
    if prompt != other:
        raise BadRow("rejected", "the same prompt as in `chosen`", "another one")
    if chosen == rejected:
        raise BadRow("rejected", "another reply than `chosen`", "the same text")
    better, worse = (row.get(f"score_{side}") for side in ("chosen", "rejected"))
    if isinstance(better, float) and isinstance(worse, float) and better <= worse:
        raise BadRow("score_chosen", "more than score_rejected", f"{better} and {worse}")
    at = len(prompt)
    return Conversation(
        id=f"{file}:{number}",
        thread=digest([message["content"] for message in prompt])[:16],
        messages=[*prompt, {"role": "assistant", "content": rejected}],
        verdicts={at: by_source("dsat")},
        revised={at: chosen},
        flags=(),
        file=file,
        row=number,
    )


def _side(row: dict[str, Any], side: str) -> tuple[list[Message], str]:
    """(prompt, reply) of `chosen` or `rejected`."""
    value, prompt = row.get(side), row.get("prompt")
    if isinstance(value, str):
        return [{"role": "user", "content": to_text(prompt, "prompt")}], to_text(value, side)
    if isinstance(prompt, list):
        before = last_user(to_messages(prompt, role="role", content="content", field="prompt"), "prompt")
        value = value if isinstance(value, list) else [value]
        if len(value) != 1 or not isinstance(value[0], dict):
            raise BadRow(side, "one reply: [{'role': 'assistant', 'content': text}]", f"{len(value)} messages")
        return before, to_text(value[0].get("content"), f"{side}[0].content")
    messages = to_messages(value, role="role", content="content", field=side)
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise BadRow(side, "a prompt and a last message by the assistant", f"{len(messages)} messages")
    return messages[:-1], messages[-1]["content"]
