"""DRIFT (arXiv 2510.02341): rejected is the logged reply that drew dissatisfaction, chosen is a fresh sample of the policy.

Where we differ from the official script: chat template instead of plain text, seeded sampling, and rules for empty, cut,
identical and copied replies (`examples/filters.py`). One sample a record; more rounds only if there are too few records.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drift.examples.guidance import Guidance
from drift.records import Pair, Prompt, Record


@dataclass(frozen=True, kw_only=True)
class Drift:
    """`guidance`: which samples see the disliked reply and the feedback (the paper: all). `rounds`: how often the records
    may be gone through in one iteration."""

    guidance: Guidance
    rounds: int

    judge: ClassVar[None] = None
    needs: ClassVar[str] = "DSAT"

    def make_examples(self, records: Sequence[Record], ask: Any) -> Iterator[Pair]:
        for k in range(self.rounds):
            for record, (reply,) in ask.draw(self.rejected(records), self.prompts_of, first_sample=k, label="fresh replies"):
                yield Pair(
                    prompt=record.prompt,
                    chosen=reply.text,
                    rejected=record.reply,
                    chosen_ended=reply.ended,
                    rejected_ended=record.ended,
                    fresh=("chosen",),
                    feedback=record.feedback,
                    record=record.id,
                )

    def rejected(self, records: Sequence[Record]) -> list[Record]:
        """Those whose reply becomes a rejected one."""
        return [record for record in records if record.label == "dsat"]

    def prompts_of(self, record: Record) -> list[Prompt]:
        return self.guidance.prompts(record, 1)
