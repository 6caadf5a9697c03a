"""SPIN (arXiv 2401.01335) on user feedback: chosen is a logged reply that satisfied, rejected is a fresh unguided sample.

The opponent is the policy that the iteration starts from, as in the official code. Logged praise is scarce, so the records
are gone through several times with different samples until there are enough pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drift.records import Pair, Record


@dataclass(frozen=True, kw_only=True)
class Spin:
    """`rounds`: how often the records may be gone through in one iteration, each time with a new sample."""

    rounds: int

    judge: ClassVar[None] = None
    needs: ClassVar[str] = "SAT"

    def make_examples(self, records: Sequence[Record], ask: Any) -> Iterator[Pair]:
        happy = [record for record in records if record.label == "sat"]
        for k in range(self.rounds):
            for record, (reply,) in ask.draw(happy, lambda record: [record.prompt], first_sample=k, label="fresh replies"):
                yield Pair(
                    prompt=record.prompt,
                    chosen=record.reply,
                    rejected=reply.text,
                    chosen_ended=record.ended,
                    rejected_ended=reply.ended,
                    fresh=("rejected",),
                    feedback=record.feedback,
                    record=record.id,
                )
