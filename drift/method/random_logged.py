"""The null control of DRIFT: rejected is any logged reply, whatever the user thought of it; chosen is a fresh sample.

What this gains is owed to "fresh against logged" and to training as such; what DRIFT gains beyond it comes from dissatisfaction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.examples.guidance import Guidance
from drift.method.drift import fresh_over_logged
from drift.parts import Ask
from drift.records import Example, Record


@dataclass(frozen=True, kw_only=True)
class RandomLogged:
    """`guidance` and `rounds` as in DRIFT. The records come in an order that knows no labels."""

    guidance: Guidance
    rounds: int

    paired: ClassVar[bool] = True
    needs: ClassVar[str] = "DSAT or SAT"
    judge = None

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        return fresh_over_logged(records, ask, guidance=self.guidance, rounds=self.rounds)
