"""DRIFT (arXiv 2510.02341): the rejected reply is the logged one that the user disliked, the chosen reply a fresh sample.

Where it differs from the official script: chat template instead of plain text, seeded sampling, and rules for empty, cut-off,
identical and copied replies (`examples/filters.py`). One sample per record, or several, which share the prompt and the
disliked reply as one example: less noise for the same signal. More rounds only if there are too few records.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.errors import UserError
from drift.examples.guidance import Guidance
from drift.parts import Ask
from drift.records import Example, Record, example, fresh, logged


@dataclass(frozen=True, kw_only=True)
class Drift:
    """`num_samples`: fresh replies per record (the paper: 1). `guidance`: which of them are drawn with the disliked reply and the
    feedback in view (the paper: all). `rounds`: the most passes over the records in an iteration."""

    num_samples: int
    guidance: Guidance
    rounds: int

    paired: ClassVar[bool] = True
    hindsight: ClassVar[bool] = False
    needs: ClassVar[str] = "DSAT"
    judge = None

    def check(self) -> None:
        if self.num_samples < 1:
            raise UserError(f"method.num_samples={self.num_samples}: expected at least 1.")

    def learns_from(self, record: Record) -> bool:
        return record.label == "dsat"

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        disliked = [record for record in records if self.learns_from(record)]
        return fresh_over_logged(disliked, ask, num_samples=self.num_samples, guidance=self.guidance, rounds=self.rounds)


def fresh_over_logged(
    records: Sequence[Record], ask: Ask, *, num_samples: int, guidance: Guidance, rounds: int
) -> Iterator[Example]:
    """Examples of a record's own reply (rejected) and `num_samples` fresh ones (chosen), which are new ones in every round."""
    prompts_of = lambda record: guidance.prompts(record, num_samples)  # noqa: E731
    for record, replies in ask.draw(records, prompts_of, label="fresh replies", rounds=rounds):
        yield example(record, *(fresh(reply, good=True) for reply in replies), logged(record, good=False))
