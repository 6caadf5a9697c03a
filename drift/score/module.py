"""The reference as a Lightning module: a frozen model that only computes log-probabilities."""

from typing import Any

import lightning
from torch import Tensor


class ReferenceModule(lightning.LightningModule):
    """Frozen model; `predict_step` gives the summed reply log-probs `(R,)` of a batch of sequences, or, with `per_token`, that of
    every reply token `(N,)`, reply after reply."""

    def __init__(self, model: Any, layout: Any, on_batch: Any, per_token: bool = False) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.layout, self.on_batch, self.per_token = layout, on_batch, per_token

    def cpu(self) -> "ReferenceModule":
        """Does nothing: when its Trainer ends, Lightning would move all weights to the CPU, and they are about to be freed."""
        return self

    def predict_step(self, batch: dict[str, Any]) -> Tensor:
        sums, _, tokens = self.layout.reply_logprobs(self.model, batch)
        self.on_batch(len(sums))
        return (tokens if self.per_token else sums).cpu()
