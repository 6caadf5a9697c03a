"""The state of the questions that are being asked of a server, and what is said about answers that are of no use."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from drift.console import say
from drift.engine import answer
from drift.errors import UserError
from drift.records import Message

GIVE_UP = 10  # after this many unanswered questions in a row, the others would fail too
SHOWN = 200  # characters of an answer that can't be read


@dataclass
class Questions:
    """The state of the questions: `answers` by name (None: nothing to use), `failures` by kind. `tick` is called with the name of
    each answered question."""

    answers: dict[str, answer.Answer | None]
    tick: Callable[[str], None]
    failures: Counter[str] = field(default_factory=Counter)
    last: str = ""
    in_a_row: int = 0
    capped: bool = False

    def failed(self, failure: answer.Failure) -> None:
        self.failures[failure.kind] += 1
        self.last = str(failure)
        self.in_a_row += 1

    def gave_up(self) -> bool:
        return self.in_a_row >= GIVE_UP

    def describe_failures(self, wanted: int) -> str:
        """The failures in words, with counts."""
        kinds = "; ".join(f"{count} x {kind}" for kind, count in self.failures.most_common())
        rest = f", the last {GIVE_UP} in a row, so the rest were not asked" if self.gave_up() else ""
        return f"left {self.failures.total()} of the {wanted} questions unanswered ({kinds}{rest}). The last: {self.last}."


def most_tokens(request: dict[str, Any]) -> tuple[int, int]:
    """The most tokens that a request may send, and be answered with: no token is shorter than a byte."""
    sent = sum(len(text.encode("utf-8", "replace")) + 16 for message in request["messages"] for text in message.values())
    return sent, request["max_tokens"]


def sendable(message: Message) -> Message:
    """The message without lone surrogates, which can't be sent."""
    return {name: text.encode("utf-8", "replace").decode() for name, text in message.items()}


def refuse_empty(num_empty: int, wanted: int, url: str, setting: str, limit: str) -> None:
    """Raises UserError about answers without a text. `setting`: of the judge, which has a `without_answer`; `limit`: what bounds
    the length of an answer."""
    raise UserError(
        f"{num_empty} of {wanted} questions got an answer without a text from {url} (a filter, or a model that thinks for longer "
        f"than {limit}). The other answers are kept. The same command asks these questions again. {setting}.without_answer=skip "
        "leaves out what these questions are about."
    )


def say_unread(unread: Sequence[str], wanted: int) -> None:
    """Shows one of the answers that can't be read."""
    say(f"  {len(unread)} of the first {wanted} answers can't be read, and make no score. For example: {unread[0][:SHOWN]!r}")
