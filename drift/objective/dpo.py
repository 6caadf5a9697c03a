"""DPO (arXiv 2305.18290): ln 2 where policy and reference agree."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from drift.errors import UserError
from drift.objective.pairwise import summed

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch, Step


def dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * margin), eq. 7; log-ratios `(P,)` in nats."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen - rejected))


@dataclass(frozen=True, kw_only=True)
class Dpo:
    """`beta`: strength of the implied KL constraint; a higher one keeps the policy nearer to the reference."""

    weight: float
    beta: float

    paired: ClassVar[bool] = True
    mismatched: ClassVar[bool] = False
    hindsight: ClassVar[bool] = False

    def check(self) -> None:
        if not (self.weight > 0 and self.beta > 0):
            raise UserError("objective.dpo: expected weight and beta above 0.")

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        return summed(batch, partial(dpo, beta=self.beta), batch.ratios, self.beta)
