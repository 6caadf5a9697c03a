"""WildFeedback's preference pairs (microsoft/WildFeedback, `wildfeedback.json`, ODC-BY): for real prompts, replies written with
and without knowledge of the user's preferences.

One row: {"conversations": [{"from": "human", "value": "..."}, ...], "chosen": {"from": "gpt", "value": "..."}, "rejected": {...}}.
Some rows have a history that does not end with the user, or two equal replies; these are set aside. The card gives no
schema: this is what two public loaders read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.intake.conversations import Conversation, by_source
from drift.intake.files import find_files
from drift.intake.rows import BadRow, parse_rows
from drift.intake.turns import one_reply, quote, require_user_last, to_messages
from drift.records import Message, digest

FIELDS = {
    "": frozenset({"conversations", "chosen", "rejected", "system", "system_prompt", "system_message"}),
    **dict.fromkeys(("conversations", "chosen", "rejected"), frozenset({"from", "value"})),
}


@dataclass(frozen=True, kw_only=True)
class WildFeedbackPairs:
    """`path`: the hub data set, a directory, or the file itself. `ignore_fields`: fields to ignore."""

    path: str
    ignore_fields: list[str]

    name = "wildfeedback-pairs"
    version = 2
    knows_truth = False
    uses_policy = False
    gives_records = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return find_files(self.path, "wildfeedback*")

    def conversations(self, file: Path) -> Iterator[Any]:
        return parse_rows(file, parse, option="wildfeedback_pairs", path=self.path, fields=FIELDS, ignore=self.ignore_fields)


def parse(row: dict[str, Any], file: str, number: int) -> Conversation:
    """One row; raises BadRow."""
    field = "conversations"
    prompt = require_user_last(to_messages(row.get(field), role="from", content="value", field=field, system=row), field)
    chosen, rejected = (_reply(row.get(side), side, prompt) for side in ("chosen", "rejected"))
    if chosen == rejected:
        raise BadRow("rejected", "a different reply than `chosen`", "the same text")
    return Conversation(
        id=f"{file}:{number}",
        thread=digest([message["content"] for message in prompt])[:16],
        messages=[*prompt, {"role": "assistant", "content": rejected}],
        opinions={len(prompt): by_source("dsat")},
        revised={len(prompt): chosen},
        flags=(),
        file=file,
        row=number,
    )


def _reply(value: Any, side: str, prompt: list[Message]) -> str:
    if not isinstance(value, dict):
        raise BadRow(side, "{'from': 'gpt', 'value': text}", quote(value))
    return one_reply(value, side, prompt, role="from", content="value")
