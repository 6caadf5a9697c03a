"""KTO (arXiv 2402.01306): single replies, liked or disliked, compared with a reference point that the policy itself sets.

That point is the mean log-ratio of replies to other prompts, an estimate of the KL divergence from the reference (eq. 7),
over the optimiser step and without gradient: a reply must gain more than any reply gains. Where we differ from TRL: its
estimate is over a batch of one device, so it depends on the batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from drift.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch, Step


def kto(ratios: Tensor, good: Tensor, kl: float, beta: float) -> Tensor:
    """1 - sigmoid(beta * (ratio - kl)) for a good reply, 1 - sigmoid(beta * (kl - ratio)) for a bad one: eq. 8 without its
    weights, `(R,)`."""
    import torch

    gain = beta * (ratios - kl)
    return 1 - torch.sigmoid(torch.where(good, gain, -gain))


@dataclass(frozen=True, kw_only=True)
class Kto:
    """`beta`: as in DPO. `desirable_weight`, `undesirable_weight`: of good and of bad replies; the paper keeps the ratio of
    (weight * number) of the two between 1 and 4/3."""

    weight: float
    beta: float
    desirable_weight: float
    undesirable_weight: float

    paired: ClassVar[bool] = False
    mismatched: ClassVar[bool] = True
    hindsight: ClassVar[bool] = False

    def check(self) -> None:
        if not (self.weight > 0 and self.beta > 0 and min(self.desirable_weight, self.undesirable_weight) >= 0):
            raise UserError(
                "objective.kto: expected weight and beta above 0, desirable_weight and undesirable_weight of at least 0."
            )

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        assert step.kl is not None
        good = torch.tensor(batch.good, device=batch.logps.device)
        weights = torch.where(good, self.desirable_weight, self.undesirable_weight).to(batch.logps)
        losses = weights * kto(batch.ratios, good, step.kl, self.beta)
        num_examples = len(set(batch.example))  # the batch's weight in a mean over examples
        kl = batch.logps.new_tensor(step.kl * num_examples)
        return losses.sum() * step.num_examples / (step.num_good + step.num_bad), {"kl": kl}
