"""The reference as a Lightning module: a frozen model that only says its numbers."""

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
        """Stays where it is when its Trainer ends, and is freed there: Lightning would move all its weights."""
        return self

    def predict_step(self, batch: dict[str, Any]) -> Tensor:
        sums, _ = self.layout.reply_logprobs(self.model, batch)
        self.on_batch(len(sums))
        return sums.cpu()
