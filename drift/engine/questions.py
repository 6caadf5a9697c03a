"""The state of the questions that are being asked of a server."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from drift.engine import answer

GIVE_UP = 10  # after this many unanswered questions in a row, the others would fail too


@dataclass
class Questions:
    """The state of the questions: `answers` by name (None: without text), `failures` by kind. `tick` is called with the name of
    each answered question."""

    answers: dict[str, str | None]
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
