"""Logged replies as they are, liked or disliked, without a partner and without a fresh sample: what thumbs in a log say by
themselves.

For objectives that take one reply at a time (KTO, arXiv 2402.01306). Beside DRIFT it shows what the fresh sample adds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.parts import Ask
from drift.records import Example, Record, example, logged


@dataclass(frozen=True, kw_only=True)
class Unpaired:
    """`rounds`: how often an iteration may use a logged reply."""

    rounds: int

    paired: ClassVar[bool] = False
    needs: ClassVar[str] = "DSAT or SAT"
    judge = None

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        for _ in range(self.rounds):
            yield from (example(record, logged(record, good=record.label == "sat")) for record in records)
