"""DRIFT (arXiv 2510.02341): the rejected reply is the logged one that the user disliked, the chosen reply a fresh sample.

Where it differs from the official script: chat template instead of plain text, seeded sampling, and rules for empty, cut-off,
identical and copied replies (`examples/filters.py`). One sample per record; more rounds only if there are too few records.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.examples.guidance import Guidance
from drift.parts import Ask
from drift.records import Example, Record, example, fresh, logged


@dataclass(frozen=True, kw_only=True)
class Drift:
    """`guidance`: which samples are drawn with the disliked reply and the feedback in view (the paper: all). `rounds`: the most
    passes over the records in an iteration."""

    guidance: Guidance
    rounds: int

    paired: ClassVar[bool] = True
    hindsight: ClassVar[bool] = False
    needs: ClassVar[str] = "DSAT"
    judge = None

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        disliked = [record for record in records if record.label == "dsat"]
        return fresh_over_logged(disliked, ask, guidance=self.guidance, rounds=self.rounds)


def fresh_over_logged(records: Sequence[Record], ask: Ask, *, guidance: Guidance, rounds: int) -> Iterator[Example]:
    """Pairs of a record's own reply (rejected) and a fresh sample (chosen), which is a new one in every round."""
    for k in range(rounds):
        prompts_of = lambda record: guidance.prompts(record, 1)  # noqa: E731
        for record, (reply,) in ask.draw(records, prompts_of, first_sample=k, label="fresh replies"):
            yield example(record, fresh(reply, good=True), logged(record, good=False))
