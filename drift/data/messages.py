"""Chat logs in OpenAI's form, one conversation a row, with or without what users clicked or wrote.

    {"id": "c17", "messages": [{"role": "user", "content": "..."},
                               {"role": "assistant", "content": "...", "feedback": "down", "comment": "Too long."}, ...]}

A reply may have a mark (`feedback`, `thumbs`, `rating`, `label` or `annotation`) and a `comment`; the same beside `messages` judge
the last reply, as KTO's `label` does (where it is one of several, the conversation is flagged "whole_conversation"). If any reply
of a conversation has a mark, nobody else judges the conversation; otherwise the miner reads the users' turns. `rejected_response`
beside `messages` makes the row a pair. All forms are in docs/log-format.md. Source: our own reading of what chat products export;
the message form is OpenAI's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from drift.intake.aside import printable
from drift.intake.conversations import Conversation, by_source
from drift.intake.fields import empty
from drift.intake.files import files
from drift.intake.marks import CLICKS, Mark, Scale, read_mark
from drift.intake.rows import BadRow, each
from drift.intake.turns import Turns, last_user, one_reply, to_turns
from drift.records import digest

ON_ROWS = CLICKS | {"kto_tag"}
FIELDS = {
    "": ON_ROWS | {"messages", "comment", "rejected_response", "system", "system_prompt", "system_message"},
    "messages": CLICKS | {"role", "content", "comment"},
}


@dataclass(frozen=True, kw_only=True)
class Messages:
    """`path`: a .jsonl, .json or .parquet file, or a directory of them. `displeased_up_to`, `pleased_from`: what numbers mean (see
    `Scale`). `ignore_fields`: fields to leave unread."""

    path: str
    displeased_up_to: float | None
    pleased_from: float | None
    ignore_fields: list[str]

    name = "messages"
    version = 2
    knows_truth = False
    uses_policy = False
    gives_records = False

    def check(self) -> None:
        self.scale().check()
        self.files()

    def scale(self) -> Scale:
        return Scale(displeased_up_to=self.displeased_up_to, pleased_from=self.pleased_from)

    def files(self) -> list[Path]:
        return files(self.path, "*")

    def conversations(self, file: Path) -> Iterator[Any]:
        read = partial(parse, scale=self.scale())
        return each(file, read, option="messages", path=self.path, fields=FIELDS, ignore=self.ignore_fields)


def parse(row: dict[str, Any], file: str, number: int, *, scale: Scale) -> Conversation:
    """One row; raises BadRow."""
    turns = to_turns(row.get("messages"), role="role", content="content", field="messages", system=row)
    name = next((printable(row[key]) for key in ("id", "conversation_id") if not empty(row.get(key))), f"{file}:{number}")
    marks = marks_of(row, turns, scale, f"{file}, row {number}")
    whole = read_mark(row, ON_ROWS, "", scale, f"{file}, row {number}")
    replies = [at for at, message in enumerate(turns.messages) if message["role"] == "assistant"]
    if whole.label is not None or whole.words is not None:
        if not replies:
            raise BadRow("messages", "a reply, which the row's feedback is about", "none")
        marks[replies[-1]] = together(marks.get(replies[-1]), whole)
    if not empty(row.get("rejected_response")):
        if marks:
            raise BadRow("rejected_response", "no other verdict on a row that is a pair", "one on a reply or on the row")
        return pair(row, turns, name, file, number)
    clicked = {i: by_source(mark.label, mark.reason) for i, mark in marks.items() if mark.label is not None}
    return Conversation(
        id=name,
        thread=name,
        messages=turns.messages,
        verdicts=clicked or None,
        revised={},
        flags=("whole_conversation",) if whole.label is not None and len(replies) > 1 else (),
        file=file,
        row=number,
        comments={i: mark.words for i, mark in marks.items() if mark.words is not None},
        from_tools=turns.from_tools,
    )


def marks_of(row: dict[str, Any], turns: Turns, scale: Scale, place: str) -> dict[int, Mark]:
    """What was said beside the replies, by their index."""
    marks: dict[int, Mark] = {}
    for i, message in enumerate(row["messages"]):
        if message.keys() == {"role", "content"}:
            continue
        mark, at = read_mark(message, CLICKS, f"messages[{i}]", scale, place), turns.places[i]
        if mark.label is None and mark.words is None:
            continue
        if at is None or turns.messages[at]["role"] != "assistant" or at in marks:
            name = next(name for name in (*sorted(CLICKS), "comment") if not empty(message.get(name)))
            raise BadRow(
                f"messages[{i}].{name}", "feedback on the assistant's replies, once each", f"on one by the {message['role']}"
            )
        marks[at] = mark
    return marks


def together(own: Mark | None, whole: Mark) -> Mark:
    """What is said of the last reply, on it and on the conversation as a whole."""
    if own is None:
        return whole
    if None not in (own.label, whole.label) and own.label != whole.label:
        raise BadRow("messages", "one verdict on the last reply", f"{whole.label} on the row and {own.label} on the reply")
    return Mark(label=own.label or whole.label, words=own.words or whole.words, reason=own.reason or whole.reason)


def pair(row: dict[str, Any], turns: Turns, name: str, file: str, number: int) -> Conversation:
    """A row whose last reply is better than the one in `rejected_response`."""
    *prompt, last = turns.messages
    if last["role"] != "assistant" or turns.from_tools:
        raise BadRow("messages", "a last message by the assistant, and no tool calls", f"one by the {last['role']}")
    value = row["rejected_response"]
    value = {"role": "assistant", "content": value} if isinstance(value, str) else value
    rejected = one_reply(value, "rejected_response", last_user(prompt, "messages"), role="role", content="content")
    if rejected == last["content"]:
        raise BadRow("rejected_response", "another reply than the last message", "the same text")
    return Conversation(
        id=name,
        thread=digest([message["content"] for message in prompt])[:16],
        messages=[*prompt, {"role": "assistant", "content": rejected}],
        verdicts={len(prompt): by_source("dsat")},
        revised={len(prompt): last["content"]},
        flags=(),
        file=file,
        row=number,
    )
