"""The three things that flow through the program, and their jsonl form.

*Record*: one piece of user feedback on one reply. *Reply*: one fresh sample of a policy. *Example*: what a method makes and the
trainer learns from. All are plain data: nothing here knows a model or a method.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drift.files import replace

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
Prompt = Sequence[Message]  # ends with a user message


def digest(value: Any) -> str:
    """sha256 (hex) of a value's canonical json form."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Record:
    """A user's feedback on a reply.

    `ended`: the reply ends with the model's end-of-turn token (False: it was cut off by a length limit).
    `revised`: the reply given after the feedback; `satisfied`: the user was content with that one (a DSAT->SAT seed pair).
    `truth`: what a checker needs to judge any reply to this prompt, where the source knows it; None for real logs.
    `provenance`: where it comes from and who says so (source, row, turn, detector, label, category, confidence, evidence); None
    for the simulated deployment.
    """

    id: str
    conversation: str
    prompt: Prompt
    reply: str
    label: Literal["dsat", "sat"]
    ended: bool
    feedback: str | None
    revised: str | None
    satisfied: bool
    truth: dict[str, str] | None
    provenance: dict[str, Any] | None

    @property
    def key(self) -> str:
        """Identity by content: the noise of fresh replies depends on it, and on nothing else of the record."""
        return digest([list(self.prompt), self.reply, self.feedback])


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One fresh sample. `num_tokens` counts the end-of-turn token; `ended` says whether the model produced it."""

    text: str
    num_tokens: int
    ended: bool


@dataclass(frozen=True, kw_only=True)
class Logprob:
    """Of a whole reply: the sum over its tokens, in nats, and how many they are, the end-of-turn token among them."""

    nats: float
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One reply of an example. `ended`: with the end-of-turn token. `fresh`: just sampled, not logged. `good`: which side it is
    on."""

    text: str
    ended: bool
    fresh: bool
    good: bool


@dataclass(frozen=True, kw_only=True)
class Example:
    """What a method makes and the trainer learns from: a prompt and its labelled replies. Two replies, one of them good, are a
    pair; one alone is unpaired. `record`: the id of the record that it comes from, `feedback`: what that user said."""

    prompt: Prompt
    replies: tuple[Labelled, ...]
    feedback: str | None
    record: str

    def side(self, good: bool) -> list[Labelled]:
        """Its good replies, or the others."""
        return [reply for reply in self.replies if reply.good == good]


def fresh(reply: Reply, *, good: bool) -> Labelled:
    """A reply just sampled, as one side of an example."""
    return Labelled(text=reply.text, ended=reply.ended, fresh=True, good=good)


def logged(record: Record, *, good: bool) -> Labelled:
    """A record's own reply, as one side of an example."""
    return Labelled(text=record.reply, ended=record.ended, fresh=False, good=good)


def example(record: Record, *replies: Labelled) -> Example:
    """Replies to a record's prompt, with what its user said."""
    return Example(prompt=record.prompt, replies=replies, feedback=record.feedback, record=record.id)


def write_json(path: Path, value: Any) -> None:
    """Indented json, written atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """One json object a line, dataclasses as their fields; written atomically."""
    plain = (dataclasses.asdict(row) if dataclasses.is_dataclass(row) else row for row in rows)  # type: ignore[arg-type]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that this program wrote (a user's file goes through `intake/rows.py`, which checks it)."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_records(path: Path) -> list[Record]:
    return [Record(**row) for row in read_jsonl(path)]


def read_examples(path: Path) -> list[Example]:
    rows = [(row, tuple(Labelled(**reply) for reply in row.pop("replies"))) for row in read_jsonl(path)]
    return [Example(**row, replies=replies) for row, replies in rows]


def write_text(path: Path, text: str) -> None:
    """Writes atomically, as `drift.files.replace` does."""
    replace(path, text.encode())
