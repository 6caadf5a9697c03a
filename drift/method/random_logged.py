"""A control for DRIFT: the rejected reply is any logged one, whatever the user thought of it; the chosen reply is a fresh sample.

Its gain is due to "fresh against logged" and to training as such; what DRIFT gains beyond it comes from dissatisfaction.
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
    """`guidance` and `rounds`: as in DRIFT. The order of the records does not depend on their labels."""

    guidance: Guidance
    rounds: int

    paired: ClassVar[bool] = True
    hindsight: ClassVar[bool] = False
    needs: ClassVar[str] = "DSAT or SAT"
    judge = None

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        return fresh_over_logged(records, ask, guidance=self.guidance, rounds=self.rounds)
