"""The pairs of the warm start (DSAT -> SAT, both logged): the rejected reply is the disliked one, the chosen a later, liked one.

The chosen reply answered the feedback turn, but the pair's prompt ends with the original request, as DRIFT's own format implies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.parts import Ask
from drift.records import Example, Labelled, Record, example, logged


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Pairs from the records that have one; draws no samples."""

    paired: ClassVar[bool] = True
    hindsight: ClassVar[bool] = False
    needs: ClassVar[str] = "DSAT followed by a reply that the user liked (or set warmup_epochs=0)"
    judge = None

    def learns_from(self, record: Record) -> bool:
        return record.label == "dsat" and bool(record.satisfied and record.revised)

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        for record in records:
            if self.learns_from(record) and record.revised:
                later = Labelled(text=record.revised, ended=True, fresh=False, good=True)
                yield example(record, later, logged(record, good=False))
