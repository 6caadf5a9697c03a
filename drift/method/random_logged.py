"""A control for DRIFT: the rejected reply is any logged one, whatever the user thought of it; the chosen reply is a fresh sample.

Its gain is due to "fresh against logged" and to training as such; what DRIFT gains beyond it comes from dissatisfaction. Disliked
replies may differ in length from the others, and pushing down long replies alone makes replies short; with `match=length` the
rejected replies are as long as the disliked ones, so that length explains no difference.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from drift.console import say
from drift.data.requests import words
from drift.examples.guidance import Guidance
from drift.method.drift import fresh_over_logged
from drift.parts import Ask
from drift.records import Example, Record

NEAREST = 8  # logged replies among which one of the length of a disliked reply is drawn


@dataclass(frozen=True, kw_only=True)
class RandomLogged:
    """`match`: none, any logged reply, silent users' too; length, as long as the disliked ones. `num_samples`, `guidance` and
    `rounds`: as in DRIFT. The order of the records does not depend on their labels."""

    match: Literal["none", "length"]
    num_samples: int
    guidance: Guidance
    rounds: int

    paired: ClassVar[bool] = True
    hindsight: ClassVar[bool] = False
    needs: ClassVar[str] = "DSAT (with method.match=none, any)"
    judge = None

    def learns_from(self, record: Record) -> bool:
        return self.match == "none" or record.label == "dsat"

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example]:
        disliked = sum(record.label == "dsat" for record in records)
        if 2 * disliked > len(records):
            say(
                f"  Note: {disliked} of the log's {len(records)} replies were disliked, so this control is mostly DRIFT, and what "
                "DRIFT gains beyond it understates what dissatisfaction teaches. It needs the other replies too, silent users'."
            )
        drawn = matched(records) if self.match == "length" else records
        return fresh_over_logged(drawn, ask, num_samples=self.num_samples, guidance=self.guidance, rounds=self.rounds)


def matched(records: Sequence[Record]) -> list[Record]:
    """For each disliked reply, in order, one of the NEAREST logged ones in words, itself among them, at random and without putting
    it back."""
    lengths = [len(words(record.reply)) for record in records]
    left, drawn = list(range(len(records))), []
    for i, record in enumerate(records):
        if record.label == "dsat":
            near = sorted(left, key=lambda j: (abs(lengths[j] - lengths[i]), records[j].key))[:NEAREST]
            pick = random.Random(record.key).choice(near)
            left.remove(pick)
            drawn.append(records[pick])
    return drawn
