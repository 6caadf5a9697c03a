"""Feedback in the format of the official DRIFT data: one JSON object a line.

DSAT, a reply that displeased, with what the user said to it:
    {"prompt": [{"role": "user", "content": "Sum it up in two sentences."}],
     "rejected": [{"role": "assistant", "content": "It is a long story. ..."}],
     "user_preference": {"content": "No, I asked for two sentences."}}
SAT, a reply that pleased: the same with `chosen` instead of `rejected`. Both in one row: a DSAT record whose later answer
satisfied (a seed pair). Source: the field names that the official sampling script reads; its SAT files are not public, so
`chosen` is our reading. `user_preference` may be missing.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.data.collected import Collected
from drift.errors import UserError
from drift.model.policy import hash_file
from drift.records import Prompt, Record, digest

VERSION = 1


class BadRow(ValueError):
    """A row that can't be used: (field, what was expected, what was found)."""


@dataclass(frozen=True, kw_only=True)
class Jsonl:
    """`path`: the file. `max_records`: a random choice of so many by `seed` (null: all)."""

    path: str
    max_records: int | None
    seed: int

    knows_truth = False
    uses_policy = False

    def check(self) -> None:
        if not Path(self.path).expanduser().is_file():
            raise UserError(
                f"data.path={self.path}: no such file. Expected a .jsonl file of feedback records (see drift/data/jsonl.py)."
            )

    def key(self) -> dict[str, Any]:
        file = hash_file(Path(self.path).expanduser())
        return {"data": "jsonl", "version": VERSION, "file": file, "max_records": self.max_records, "seed": self.seed}

    def collect(self, draw: Callable[..., Any]) -> Collected:
        path = Path(self.path).expanduser()
        records: list[Record] = []
        aside: list[dict[str, Any]] = []
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    records.append(parse(line, f"{path.name}:{number}"))
                except BadRow as error:
                    field, expected, found = error.args
                    where = {"file": str(path), "line": number, "field": field}
                    aside.append(where | {"expected": expected, "found": found, "reason": "malformed row"})
        return Collected(
            records=choose(records, self.max_records, self.seed),
            set_aside=aside,
            facts={"rows read": len(records) + len(aside)},
        )


def choose(records: list[Record], count: int | None, seed: int) -> list[Record]:
    """A seeded choice of `count` records in their order (None: all)."""
    if count is None or count >= len(records):
        return records
    picked = sorted(random.Random(seed).sample(range(len(records)), count))
    return [records[i] for i in picked]


def parse(line: bytes, name: str) -> Record:
    """One row as a Record; raises BadRow."""
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise BadRow("(row)", "a JSON object in UTF-8", str(error)) from error
    if not isinstance(row, dict):
        raise BadRow("(row)", "a JSON object", type(row).__name__)
    prompt = _prompt(row.get("prompt"))
    rejected, chosen = (_reply(row, side) if row.get(side) is not None else None for side in ("rejected", "chosen"))
    reply = rejected if rejected is not None else chosen
    if reply is None:
        raise BadRow("rejected", "`rejected` (DSAT) or `chosen` (SAT): [{'role': 'assistant', 'content': text}]", "neither")
    return Record(
        id=name,
        conversation=digest(next(message["content"] for message in prompt if message["role"] == "user"))[:16],
        prompt=prompt,
        reply=reply,
        label="dsat" if rejected is not None else "sat",
        ended=True,
        feedback=_feedback(row.get("user_preference")),
        revised=chosen if rejected is not None else None,
        satisfied=chosen is not None,
        truth=None,
    )


def _prompt(value: Any) -> Prompt:
    if not isinstance(value, list) or not value:
        raise BadRow("prompt", "a list of {role, content}", _found(value))
    messages = []
    for i, message in enumerate(value):
        if not isinstance(message, dict):
            raise BadRow(f"prompt[{i}]", "{role, content}", _found(message))
        before = messages[-1]["role"] if messages else None
        allowed = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}[before]
        if message.get("role") not in allowed:
            raise BadRow(f"prompt[{i}].role", " or ".join(allowed), _found(message.get("role")))
        messages.append({"role": message["role"], "content": _text(message.get("content"), f"prompt[{i}].content")})
    if messages[-1]["role"] != "user":
        raise BadRow("prompt", "a last message by the user", messages[-1]["role"])
    return messages


def _reply(row: dict[str, Any], side: str) -> str:
    value = row[side]
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        raise BadRow(side, "[{'role': 'assistant', 'content': text}]", _found(value))
    return _text(value[0].get("content"), f"{side}[0].content").strip()


def _feedback(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadRow("user_preference", "{'content': text}", _found(value))
    return _text(value.get("content"), "user_preference.content")


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRow(field, "text that is not empty", _found(value))
    return value


def _found(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {json.dumps(value, ensure_ascii=False)[:60]}"
