"""The logged replies as they are, liked or disliked, unpaired and without fresh samples: what can be learnt from thumbs alone.

For objectives of single replies (KTO, arXiv 2402.01306). A comparison with DRIFT shows what fresh samples add.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.parts import Ask
from drift.records import Example, Record, example, logged


@dataclass(frozen=True, kw_only=True)
class Unpaired:
    """`rounds`: the most times that an iteration uses a logged reply."""

    rounds: int

    paired: ClassVar[bool] = False
    hindsight: ClassVar[bool] = False
    needs: ClassVar[str] = "DSAT or SAT"
    judge = None

    def learns_from(self, record: Record) -> bool:
        return record.label != "silent"

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        spoken_of = [record for record in records if self.learns_from(record)]
        for _ in range(self.rounds):
            yield from (example(record, logged(record, good=record.label == "sat")) for record in spoken_of)
