"""Length-normalised DPO (Tulu 3, arXiv 2411.15124, eq. 6): DPO on log-ratios per token, so long replies count no more than short
ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from drift.errors import UserError
from drift.objective.dpo import dpo
from drift.objective.pairwise import summed

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch, Step


@dataclass(frozen=True, kw_only=True)
class DpoNorm:
    """`beta`: as in DPO, but the margin is per token, so it has to be larger."""

    weight: float
    beta: float

    paired: ClassVar[bool] = True
    mismatched: ClassVar[bool] = False
    hindsight: ClassVar[bool] = False

    def check(self) -> None:
        if not (self.weight > 0 and self.beta > 0):
            raise UserError("objective.dpo_norm: expected weight and beta above 0.")

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        return summed(batch, partial(dpo, beta=self.beta), batch.ratios / batch.lengths, self.beta)
