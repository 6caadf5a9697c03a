"""Negative log-likelihood of the good replies: supervised fine-tuning alone, or an anchor beside a preference loss.

Per token over all good replies of the optimiser step; TRL's RPO term is per pair, so that a short reply's tokens weigh more there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from drift.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch, Step


def nll(logps: Tensor, num_tokens: int) -> Tensor:
    """Scalar: nats a token, of summed log-probabilities `(R,)` of replies with so many tokens in all."""
    return -logps.sum() / num_tokens


@dataclass(frozen=True, kw_only=True)
class Nll:
    """The reference has no part in it."""

    weight: float

    paired: ClassVar[bool] = False
    mismatched: ClassVar[bool] = False

    def check(self) -> None:
        if not self.weight > 0:
            raise UserError(f"objective.nll.weight={self.weight}: expected above 0.")

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        good = batch.side(batch.logps, good=True)
        if not len(good):
            return batch.logps.sum() * 0, {}
        return nll(good, step.good_tokens) * step.num_examples, {}  # its share of a mean over examples is one a token
