"""The three kinds of data that flow through the program, and their jsonl form.

*Record*: one piece of user feedback on one reply. *Reply*: one fresh sample from a policy. *Example*: made by a method for the
trainer. All are plain data, independent of models and methods.
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
    """The sha256 (hex) of a value's canonical JSON form."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Record:
    """A user's feedback on a reply.

    `label`: dsat, the user complained; sat, the user praised; silent, the user said nothing (controls and statistics only).
    `ended`: the reply ends with the model's end-of-turn token (False: it was cut off by a length limit).
    `revised`: the reply after the feedback. `satisfied`: the user was content with that one (a DSAT->SAT seed pair).
    `truth`: what a verifier needs to check any reply to this prompt, if the source knows it; None for real logs.
    `provenance`: where the record and its label come from (source, row, turn, detector, label, category, confidence, evidence);
    None for the simulated deployment.
    """

    id: str
    conversation: str
    prompt: Prompt
    reply: str
    label: Literal["dsat", "sat", "silent"]
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
    """The log-probability of a whole reply: the sum over its tokens, in nats, and their number, the end-of-turn token included."""

    nats: float
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One reply of an example. `ended`: with the end-of-turn token. `fresh`: just sampled, not from the log. `good`: its label."""

    text: str
    ended: bool
    fresh: bool
    good: bool


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt and its labelled replies, made by a method for the trainer. Two replies, one of them good, are a pair; a single
    reply is unpaired. `record`: the id of the record that it comes from. `feedback`: what that user said. `hindsight`: the prompt
    with that in view, under which a teacher scores the replies (see objective/sdpo.py); None: there is no teacher."""

    prompt: Prompt
    replies: tuple[Labelled, ...]
    feedback: str | None
    record: str
    hindsight: Prompt | None = None

    def side(self, good: bool) -> list[Labelled]:
        """The good replies, or the bad ones."""
        return [reply for reply in self.replies if reply.good == good]


def fresh(reply: Reply, *, good: bool) -> Labelled:
    """A fresh reply as one side of an example."""
    return Labelled(text=reply.text, ended=reply.ended, fresh=True, good=good)


def logged(record: Record, *, good: bool) -> Labelled:
    """A record's own reply, as one side of an example."""
    return Labelled(text=record.reply, ended=record.ended, fresh=False, good=good)


def example(record: Record, *replies: Labelled) -> Example:
    """An example from a record's prompt and feedback, with these replies."""
    return Example(prompt=record.prompt, replies=replies, feedback=record.feedback, record=record.id)


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Writes one JSON object per line, dataclasses as their fields, atomically."""
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
