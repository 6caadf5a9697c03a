"""SLiC's hinge (arXiv 2309.06657) on DPO's margin: a pair with a margin above one has no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from drift.errors import UserError
from drift.objective.pairwise import summed

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch, Step


def hinge(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta * margin), eq. 10; log-ratios `(P,)` in nats."""
    from torch.nn.functional import relu

    return relu(1 - beta * (chosen - rejected))


@dataclass(frozen=True, kw_only=True)
class Hinge:
    """`beta`: as in DPO."""

    weight: float
    beta: float

    paired: ClassVar[bool] = True
    mismatched: ClassVar[bool] = False
    hindsight: ClassVar[bool] = False

    def check(self) -> None:
        if not (self.weight > 0 and self.beta > 0):
            raise UserError("objective.hinge: expected weight and beta above 0.")

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        return summed(batch, partial(hinge, beta=self.beta), batch.ratios, self.beta)
