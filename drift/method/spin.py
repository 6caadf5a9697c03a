"""SPIN (arXiv 2401.01335) on user feedback: chosen is a logged reply that satisfied, rejected is a fresh unguided sample.

The opponent is the policy that the iteration starts from, as in the official code. Logged praise is scarce, so the records
are gone through several times with different samples until there are enough pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.parts import Ask
from drift.records import Example, Record, example, fresh, logged


@dataclass(frozen=True, kw_only=True)
class Spin:
    """`rounds`: how often the records may be gone through in one iteration, each time with a new sample."""

    rounds: int

    paired: ClassVar[bool] = True
    needs: ClassVar[str] = "SAT"
    judge = None

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        liked = [record for record in records if record.label == "sat"]
        for k in range(self.rounds):
            for record, (reply,) in ask.draw(liked, lambda record: [record.prompt], first_sample=k, label="fresh replies"):
                yield example(record, logged(record, good=True), fresh(reply, good=False))
