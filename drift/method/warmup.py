"""The warm start's pairs: DSAT -> SAT, both logged. Rejected is the disliked reply, chosen the later one that satisfied.

The chosen reply answered the feedback turn; the pair's prompt ends at the original request, as DRIFT's own format implies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drift.records import Pair, Record


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Seed pairs of the records that have one; draws nothing."""

    judge: ClassVar[None] = None
    needs: ClassVar[str] = "DSAT with a later reply that satisfied, or warmup_epochs=0"

    def make_examples(self, records: Sequence[Record], ask: Any) -> Iterator[Pair]:
        for record in records:
            if record.label == "dsat" and record.satisfied and record.revised:
                yield Pair(
                    prompt=record.prompt,
                    chosen=record.revised,
                    rejected=record.reply,
                    chosen_ended=True,
                    rejected_ended=record.ended,
                    fresh=(),
                    feedback=record.feedback,
                    record=record.id,
                )
