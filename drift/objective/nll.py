"""Negative log-likelihood of the good replies: supervised fine-tuning by itself, or an anchor beside a preference loss.

It is the mean over all tokens of the good replies of an optimiser step. TRL's RPO term is a mean per pair, so that there the
tokens of short replies have more weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from drift.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch, Step


def nll(logps: Tensor, num_tokens: int) -> Tensor:
    """Scalar: nats per token. `logps`: summed log-probabilities `(R,)` of replies with `num_tokens` tokens in all."""
    return -logps.sum() / num_tokens


@dataclass(frozen=True, kw_only=True)
class Nll:
    """It does not use the reference."""

    weight: float

    paired: ClassVar[bool] = False
    mismatched: ClassVar[bool] = False
    hindsight: ClassVar[bool] = False

    def check(self) -> None:
        if not self.weight > 0:
            raise UserError(f"objective.nll.weight={self.weight}: expected above 0.")

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        good = batch.side(batch.logps, good=True)
        if not len(good):
            return batch.logps.sum() * 0, {}
        return nll(good, step.good_tokens) * step.num_examples, {}  # undoes the trainer's mean over examples: it is per token
