"""The warm start's pairs: DSAT -> SAT, both logged. Rejected is the disliked reply, chosen the later one that satisfied.

The chosen reply answered the feedback turn; the pair's prompt ends at the original request, as DRIFT's own format implies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.parts import Ask
from drift.records import Example, Labelled, Record, example, logged


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Seed pairs of the records that have one; draws nothing."""

    paired: ClassVar[bool] = True
    needs: ClassVar[str] = "DSAT with a later reply that satisfied, or warmup_epochs=0"
    judge = None

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        for record in records:
            if record.label == "dsat" and record.satisfied and record.revised:
                later = Labelled(text=record.revised, ended=True, fresh=False, good=True)
                yield example(record, later, logged(record, good=False))
