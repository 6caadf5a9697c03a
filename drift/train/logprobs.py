"""Log-probabilities of replies under a model, from plain padded rows: the oracle that faster paths are tested against."""

from typing import Any

import torch
from torch import Tensor


def reply_logprobs(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """`(R,)` the summed log-probability of each row's reply tokens given what stands before them, in float32 or better.

    The token at position t is predicted at t - 1; logits are computed from the first reply token of the batch on."""
    ids, mask = batch["input_ids"], batch["reply_mask"]
    start = int(mask.any(dim=0).nonzero()[0]) - 1  # the position that predicts the first reply token
    out = model(input_ids=ids, attention_mask=batch["attention_mask"], logits_to_keep=ids.shape[1] - start, use_cache=False)
    logits = out.logits[:, :-1]  # (R, T - start - 1, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets, wanted = ids[:, start + 1 :], mask[:, start + 1 :]
    token = torch.gather(logits, 2, targets[:, :, None]).squeeze(2) - torch.logsumexp(logits, dim=2)
    return (token * wanted).sum(dim=1)
