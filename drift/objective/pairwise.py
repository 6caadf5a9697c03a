"""Shared by the losses that compare two replies: the sum over examples, and the metrics of every pairwise loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch

    Metrics = dict[str, Tensor]


def summed(batch: Batch, loss: Callable[[Tensor, Tensor], Tensor], values: Tensor, beta: float) -> tuple[Tensor, Metrics]:
    """(the sum over examples of the mean of `loss(chosen, rejected)` over their pairs, the metrics). `values` `(R,)`: one per
    reply, from which the `(P,)` chosen and rejected ones are taken."""
    pairs = batch.pairs
    losses = loss(values.index_select(0, pairs.chosen), values.index_select(0, pairs.rejected))  # (P,)
    return (losses * pairs.share).sum(), metrics(batch, beta)


def metrics(batch: Batch, beta: float) -> Metrics:
    """Sums over a batch's examples. "dpo": the DPO loss, whatever loss is trained on; rewards: beta times the log-ratio;
    "margin": chosen minus rejected reward; "accuracy": share of pairs with a margin above 0; "sigma": sigmoid(-margin), the
    weight of a pair's gradient in DPO."""
    import torch
    from torch.nn.functional import logsigmoid

    pairs = batch.pairs
    chosen, rejected = (beta * batch.ratios.detach().index_select(0, side) for side in (pairs.chosen, pairs.rejected))
    margin = chosen - rejected
    per_pair = {
        "dpo": -logsigmoid(margin), "reward_chosen": chosen, "reward_rejected": rejected, "margin": margin,
        "accuracy": (margin > 0).to(margin.dtype), "sigma": torch.sigmoid(-margin),
    }  # fmt: skip
    return {name: (value * pairs.share).sum() for name, value in per_pair.items()}
