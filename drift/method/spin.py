"""SPIN (arXiv 2401.01335) on user feedback: the chosen reply is a logged one that the user liked, the rejected one a fresh sample.

The opponent is the policy that the iteration starts from, as in the official code. Liked replies are scarce, so several passes are
made over the records, with different samples, until there are enough pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.parts import Ask
from drift.records import Example, Record, example, fresh, logged


@dataclass(frozen=True, kw_only=True)
class Spin:
    """`rounds`: the most passes over the records in an iteration, each with new samples."""

    rounds: int

    paired: ClassVar[bool] = True
    hindsight: ClassVar[bool] = False
    needs: ClassVar[str] = "SAT"
    judge = None

    def learns_from(self, record: Record) -> bool:
        return record.label == "sat"

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        liked = [record for record in records if self.learns_from(record)]
        for record, (reply,) in ask.draw(liked, lambda record: [record.prompt], label="fresh replies", rounds=self.rounds):
            yield example(record, logged(record, good=True), fresh(reply, good=False))
