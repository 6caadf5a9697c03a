"""Plain rows: prompt + reply, one row a reply, padded on the right; whole logits. The oracle that `shared.py` is tested against,
and the way for models that `shared.py` does not know."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drift.score.plan import Row


def num_tokens(rows: Sequence[Row]) -> int:
    """Tokens that a batch of these rows computes, padding included."""
    return len(rows) * max(len(row.prompt) + len(row.reply) for row in rows)


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
    """Tensors of `(R, T)`: input_ids, attention_mask, and reply_mask (True on the reply's tokens); reply_lengths `(R,)`."""
    width = max(len(row.prompt) + len(row.reply) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    reply = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        whole = len(row.prompt) + len(row.reply)
        ids[i, :whole] = torch.tensor([*row.prompt, *row.reply])
        attention[i, :whole] = 1
        reply[i, len(row.prompt) : whole] = True
    lengths = torch.tensor([len(row.reply) for row in rows])
    return {"input_ids": ids, "attention_mask": attention, "reply_mask": reply, "reply_lengths": lengths}


def check_model(directory: Path, longest: int) -> None:
    """Any causal model will do that `model/architecture.py` lets pass."""


def reply_logprobs(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Per row, over its reply tokens given what stands before them: the summed log-probability `(R,)` in nats, in float32 or
    better, and the summed entropy `(R,)` of the distributions they were predicted by (without gradient).

    The token at position t is predicted at t - 1; logits are computed from the first reply token of the batch on."""
    ids, mask = batch["input_ids"], batch["reply_mask"]
    start = int(mask.any(dim=0).nonzero()[0]) - 1  # the position that predicts the first reply token
    out = model(input_ids=ids, attention_mask=batch["attention_mask"], logits_to_keep=ids.shape[1] - start, use_cache=False)
    logits = out.logits[:, :-1]  # (R, T - start - 1, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets, wanted = ids[:, start + 1 :], mask[:, start + 1 :]
    total = torch.logsumexp(logits, dim=2)
    token = torch.gather(logits, 2, targets[:, :, None]).squeeze(2) - total
    with torch.no_grad():
        entropy = total - (torch.softmax(logits, dim=2) * logits).sum(dim=2)
    return (token * wanted).sum(dim=1), (entropy * wanted).sum(dim=1)
