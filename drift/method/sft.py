"""Supervised fine-tuning on the log's liked replies: no sample is drawn, and no disliked reply is read.

The plainest use of praise, and the rival that every preference method has to beat (arXiv 2203.02155, step 1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.parts import Ask
from drift.records import Example, Record, example, logged


@dataclass(frozen=True, kw_only=True)
class Sft:
    """`rounds`: how often an iteration may use a liked reply."""

    rounds: int

    paired: ClassVar[bool] = False
    needs: ClassVar[str] = "SAT"
    judge = None

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        liked = [record for record in records if record.label == "sat"]
        for _ in range(self.rounds):
            yield from (example(record, logged(record, good=True)) for record in liked)
