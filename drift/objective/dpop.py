"""DPO-Positive (arXiv 2402.13228): what a chosen reply loses in log-probability is subtracted from the margin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from drift.errors import UserError
from drift.objective.pairwise import summed

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch, Step


def dpop(chosen: Tensor, rejected: Tensor, beta: float, penalty: float) -> Tensor:
    """-log sigmoid(beta * (margin - penalty * lost)), eq. 3; log-ratios `(P,)` in nats."""
    from torch.nn.functional import logsigmoid, relu

    return -logsigmoid(beta * (chosen - rejected - penalty * relu(-chosen)))


@dataclass(frozen=True, kw_only=True)
class Dpop:
    """`beta`: as in DPO. `penalty`: the weight of each nat that the chosen reply lost."""

    weight: float
    beta: float
    penalty: float

    paired: ClassVar[bool] = True
    mismatched: ClassVar[bool] = False
    hindsight: ClassVar[bool] = False

    def check(self) -> None:
        if not (self.weight > 0 and self.beta > 0 and self.penalty >= 0):
            raise UserError("objective.dpop: expected weight and beta above 0, and penalty of at least 0.")

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        return summed(batch, partial(dpop, beta=self.beta, penalty=self.penalty), batch.ratios, self.beta)
