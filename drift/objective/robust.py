"""Robust DPO (arXiv 2403.00409): unbiased if a known share of the pairs has its two sides swapped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from drift.errors import UserError
from drift.objective.pairwise import summed

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch, Step


def robust(chosen: Tensor, rejected: Tensor, beta: float, label_noise: float) -> Tensor:
    """Eq. 10; log-ratios `(P,)` in nats."""
    from torch.nn.functional import logsigmoid

    margin = beta * (chosen - rejected)
    return (label_noise * logsigmoid(-margin) - (1 - label_noise) * logsigmoid(margin)) / (1 - 2 * label_noise)


@dataclass(frozen=True, kw_only=True)
class Robust:
    """`beta`: as in DPO. `label_noise`: the share of swapped pairs."""

    weight: float
    beta: float
    label_noise: float

    paired: ClassVar[bool] = True
    mismatched: ClassVar[bool] = False
    hindsight: ClassVar[bool] = False

    def check(self) -> None:
        if not (self.weight > 0 and self.beta > 0 and 0 <= self.label_noise < 0.5):
            raise UserError("objective.robust: expected weight and beta above 0, and label_noise in [0, 0.5).")

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        return summed(batch, partial(robust, beta=self.beta, label_noise=self.label_noise), batch.ratios, self.beta)
