"""IPO (arXiv 2310.12036): the margin is pulled towards a fixed value instead of growing without limit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from drift.errors import UserError
from drift.objective.pairwise import summed

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch, Step


def ipo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """(margin - 1 / (2 * beta))^2, eq. 17; log-ratios per token `(P,)`, as its authors and TRL compute it."""
    return (chosen - rejected - 1 / (2 * beta)) ** 2


@dataclass(frozen=True, kw_only=True)
class Ipo:
    """`beta`: the target of the margin is 1 / (2 * beta) nats per token."""

    weight: float
    beta: float

    paired: ClassVar[bool] = True
    mismatched: ClassVar[bool] = False
    hindsight: ClassVar[bool] = False

    def check(self) -> None:
        if not (self.weight > 0 and self.beta > 0):
            raise UserError("objective.ipo: expected weight and beta above 0.")

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        return summed(batch, partial(ipo, beta=self.beta), batch.ratios / batch.lengths, self.beta)
