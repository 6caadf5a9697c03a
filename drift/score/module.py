"""The reference as a Lightning module: a frozen model that only computes log-probabilities."""

from typing import Any

import lightning
from torch import Tensor


class ReferenceModule(lightning.LightningModule):
    """Frozen model; `predict_step` gives the summed reply log-probs `(R,)` of a batch of sequences."""

    def __init__(self, model: Any, layout: Any, on_batch: Any) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.layout, self.on_batch = layout, on_batch

    def cpu(self) -> "ReferenceModule":
        """Does nothing: when its Trainer ends, Lightning would move all weights to the CPU, and they are about to be freed."""
        return self

    def predict_step(self, batch: dict[str, Any]) -> Tensor:
        sums, _ = self.layout.reply_logprobs(self.model, batch)
        self.on_batch(len(sums))
        return sums.cpu()
