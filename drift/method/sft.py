"""Supervised fine-tuning on the log's liked replies: it draws no samples and ignores the disliked replies.

The simplest use of positive feedback, and the baseline for every preference method (arXiv 2203.02155, step 1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.parts import Ask
from drift.records import Example, Record, example, logged


@dataclass(frozen=True, kw_only=True)
class Sft:
    """`rounds`: the most times that an iteration uses a liked reply."""

    rounds: int

    paired: ClassVar[bool] = False
    hindsight: ClassVar[bool] = False
    needs: ClassVar[str] = "SAT"
    judge = None

    def learns_from(self, record: Record) -> bool:
        return record.label == "sat"

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        liked = [record for record in records if self.learns_from(record)]
        for _ in range(self.rounds):
            yield from (example(record, logged(record, good=True)) for record in liked)
