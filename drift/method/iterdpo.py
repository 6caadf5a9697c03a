"""IterDPO: several fresh samples for each DSAT prompt; the judge's best is chosen and its worst is rejected.

The paper does not state its ranker and its mix of guided and unguided samples, so both are settings. Ties are dropped and counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.errors import UserError
from drift.examples.guidance import Guidance
from drift.parts import Ask, Judge
from drift.records import Example, Prompt, Record, example, fresh


@dataclass(frozen=True, kw_only=True)
class IterDpo:
    """`num_samples`: replies per prompt, any share of them guided. `rounds`: as in DRIFT. `judge`: ranks the replies."""

    num_samples: int
    guidance: Guidance
    rounds: int
    judge: Judge

    paired: ClassVar[bool] = True
    hindsight: ClassVar[bool] = False
    needs: ClassVar[str] = "DSAT"

    def check(self) -> None:
        if self.num_samples < 2:
            raise UserError(f"method.num_samples={self.num_samples}: ranking needs at least 2.")

    def learns_from(self, record: Record) -> bool:
        return record.label == "dsat"

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example | None]:
        disliked = [record for record in records if self.learns_from(record)]
        drawn = ask.draw(disliked, self.prompts_of, label="fresh replies", rounds=self.rounds)
        for record, replies, scores in ask.judge(self.judge, drawn, label="judging"):
            best, worst = (pick(range(len(scores)), key=scores.__getitem__) for pick in (max, min))
            if scores[best] == scores[worst]:
                yield None  # a tie
                continue
            yield example(record, fresh(replies[best], good=True), fresh(replies[worst], good=False))

    def prompts_of(self, record: Record) -> list[Prompt]:
        return self.guidance.prompts(record, self.num_samples)
