"""What the losses that compare two replies share: the sum over an example's pairs, and the metrics beside any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch

    Metrics = dict[str, Tensor]


def summed(batch: Batch, loss: Callable[[Tensor, Tensor], Tensor], values: Tensor, beta: float) -> tuple[Tensor, Metrics]:
    """Sum over examples of the mean over their pairs of `loss(chosen, rejected)`, each `(P,)` of `values` `(R,)`; and the
    metrics."""
    pairs = batch.pairs
    losses = loss(values.index_select(0, pairs.chosen), values.index_select(0, pairs.rejected))  # (P,)
    return (losses * pairs.share).sum(), metrics(batch, beta)


def metrics(batch: Batch, beta: float) -> Metrics:
    """Summed over a batch's examples. "dpo": the DPO loss, whichever is trained on; rewards: beta times the log-ratio;
    "margin": chosen over rejected; "accuracy": share of pairs with a margin above 0; "sigma": sigmoid(-margin), DPO's
    weight of a pair's gradient."""
    import torch
    from torch.nn.functional import logsigmoid

    pairs = batch.pairs
    chosen, rejected = (beta * batch.ratios.detach().index_select(0, side) for side in (pairs.chosen, pairs.rejected))
    margin = chosen - rejected
    found = {
        "dpo": -logsigmoid(margin), "reward_chosen": chosen, "reward_rejected": rejected, "margin": margin,
        "accuracy": (margin > 0).to(margin.dtype), "sigma": torch.sigmoid(-margin),
    }  # fmt: skip
    return {name: (value * pairs.share).sum() for name, value in found.items()}
