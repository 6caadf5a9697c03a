"""Chat logs in OpenAI's format, one conversation per row, with or without clicks and comments by users.

    {"id": "c17", "messages": [{"role": "user", "content": "..."},
                               {"role": "assistant", "content": "...", "feedback": "down", "comment": "Too long."}, ...]}

A reply may have a mark (`feedback`, `thumbs`, `rating`, `label` or `annotation`) and a `comment`. Beside `messages`, they are
about the last reply, like KTO's `label` (if there are several replies, the conversation is flagged "whole_conversation"). If any
reply of a conversation has a mark, only marks count; otherwise the miner classifies the user turns. `rejected_response` beside
`messages` makes the row a pair. docs/log-format.md lists all forms. Source: our own survey of what chat products export;
the message format is OpenAI's."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from drift.intake.aside import printable
from drift.intake.conversations import Conversation, by_source
from drift.intake.fields import is_empty
from drift.intake.files import find_files
from drift.intake.marks import CLICKS, Mark, Scale, read_mark
from drift.intake.rows import BadRow, parse_rows
from drift.intake.turns import Turns, one_reply, require_user_last, to_turns
from drift.records import digest

ROW_MARKS = CLICKS | {"kto_tag"}
FIELDS = {
    "": ROW_MARKS | {"messages", "comment", "rejected_response", "system", "system_prompt", "system_message"},
    "messages": CLICKS | {"role", "content", "comment"},
}


@dataclass(frozen=True, kw_only=True)
class Messages:
    """`path`: a .jsonl, .json or .parquet file, a directory of them, or a hub data set in the cache, from which `config` and
    `split` select (null: all). `displeased_up_to`, `pleased_from`: what numbers mean (see `Scale`). `ignore_fields`: fields to
    ignore."""

    path: str
    config: str | None
    split: str | None
    displeased_up_to: float | None
    pleased_from: float | None
    ignore_fields: list[str]

    name = "messages"
    version = 3
    knows_truth = False
    uses_policy = False
    gives_records = False

    def check(self) -> None:
        self.scale().check()
        self.files()

    def scale(self) -> Scale:
        return Scale(displeased_up_to=self.displeased_up_to, pleased_from=self.pleased_from)

    def files(self) -> list[Path]:
        return find_files(self.path, "*", config=self.config, split=self.split)

    def conversations(self, file: Path) -> Iterator[Any]:
        scale = self.scale()
        read = partial(parse, scale=scale)
        yield from parse_rows(file, read, option="messages", path=self.path, fields=FIELDS, ignore=self.ignore_fields)
        scale.check_ones()


def parse(row: dict[str, Any], file: str, number: int, *, scale: Scale) -> Conversation:
    """One row; raises BadRow."""
    if "messages" not in row:
        has = f"no such field; the row has {printable(', '.join(map(str, row)))[:120]}"
        raise BadRow("messages", "a list of {role, content}", has, remedy="docs/log-format.md shows how to convert other forms")
    turns = to_turns(row.get("messages"), role="role", content="content", field="messages", system=row)
    name = next((printable(row[key]) for key in ("conversation_id", "id") if not is_empty(row.get(key))), f"{file}:{number}")
    marks = marks_of(row, turns, scale, f"{file}, row {number}")
    row_mark = read_mark(row, ROW_MARKS, "", scale, f"{file}, row {number}")
    replies = [at for at, message in enumerate(turns.messages) if message["role"] == "assistant"]
    if row_mark.label is not None or row_mark.words is not None:
        if not replies:
            raise BadRow("messages", "a reply that the row's feedback is about", "none")
        marks[replies[-1]] = merge_marks(marks.get(replies[-1]), row_mark)
    if not is_empty(row.get("rejected_response")):
        if marks:
            raise BadRow("rejected_response", "no other feedback in a row that is a pair", "a mark on a reply or on the row")
        return pair(row, turns, name, file, number)
    clicked = {i: by_source(mark.label, mark.reason) for i, mark in marks.items() if mark.label is not None}
    return Conversation(
        id=name,
        thread=name,
        messages=turns.messages,
        opinions=clicked or None,
        revised={},
        flags=("whole_conversation",) if row_mark.label is not None and len(replies) > 1 else (),
        file=file,
        row=number,
        comments={i: mark.words for i, mark in marks.items() if mark.words is not None},
        from_tools=turns.from_tools,
    )


def marks_of(row: dict[str, Any], turns: Turns, scale: Scale, place: str) -> dict[int, Mark]:
    """The marks on the replies, by the reply's index."""
    marks: dict[int, Mark] = {}
    for i, message in enumerate(row["messages"]):
        if message.keys() == {"role", "content"}:
            continue
        mark, at = read_mark(message, CLICKS, f"messages[{i}]", scale, place), turns.places[i]
        if mark.label is None and mark.words is None:
            continue
        if at is None or turns.messages[at]["role"] != "assistant" or at in marks:
            name = next(name for name in (*sorted(CLICKS), "comment") if not is_empty(message.get(name)))
            raise BadRow(
                f"messages[{i}].{name}",
                "feedback on the assistant's replies, once each",
                f"feedback on a message by the {message['role']}",
            )
        marks[at] = mark
    return marks


def merge_marks(reply_mark: Mark | None, row_mark: Mark) -> Mark:
    """The mark on the last reply, merged from the one on the reply and the one on the row."""
    if reply_mark is None:
        return row_mark
    if None not in (reply_mark.label, row_mark.label) and reply_mark.label != row_mark.label:
        raise BadRow(
            "messages", "one opinion of the last reply", f"{row_mark.label} on the row and {reply_mark.label} on the reply"
        )
    return Mark(
        label=reply_mark.label or row_mark.label,
        words=reply_mark.words or row_mark.words,
        reason=reply_mark.reason or row_mark.reason,
    )


def pair(row: dict[str, Any], turns: Turns, name: str, file: str, number: int) -> Conversation:
    """The conversation of a row whose last reply is better than the one in `rejected_response`."""
    *prompt, last = turns.messages
    if last["role"] != "assistant" or turns.from_tools:
        raise BadRow("messages", "a last message by the assistant, and no tool calls", f"one by the {last['role']}")
    value = row["rejected_response"]
    value = {"role": "assistant", "content": value} if isinstance(value, str) else value
    rejected = one_reply(value, "rejected_response", require_user_last(prompt, "messages"), role="role", content="content")
    if rejected == last["content"]:
        raise BadRow("rejected_response", "a different reply than the last message", "the same text")
    return Conversation(
        id=name,
        thread=digest([message["content"] for message in prompt])[:16],
        messages=[*prompt, {"role": "assistant", "content": rejected}],
        opinions={len(prompt): by_source("dsat")},
        revised={len(prompt): last["content"]},
        flags=(),
        file=file,
        row=number,
    )
