"""The padded layout: one sequence (prompt + reply) per reply, padded on the right, and the full logits. `shared.py` is tested
against it, and models that `shared.py` does not support use it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drift.score.sequence import TokenSequence


def num_tokens(sequences: Sequence[TokenSequence]) -> int:
    """Tokens that a batch of these sequences computes, padding included."""
    return len(sequences) * max(len(sequence.prompt) + len(sequence.reply) for sequence in sequences)


def collate(sequences: Sequence[TokenSequence], pad_id: int) -> dict[str, Any]:
    """Tensors of `(R, T)`: input_ids, attention_mask, and reply_mask (True on the reply's tokens); reply_lengths `(R,)`."""
    width = max(len(sequence.prompt) + len(sequence.reply) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad_id)
    attention = torch.zeros((len(sequences), width), dtype=torch.long)
    reply = torch.zeros((len(sequences), width), dtype=torch.bool)
    for i, sequence in enumerate(sequences):
        length = len(sequence.prompt) + len(sequence.reply)
        ids[i, :length] = torch.tensor([*sequence.prompt, *sequence.reply])
        attention[i, :length] = 1
        reply[i, len(sequence.prompt) : length] = True
    lengths = torch.tensor([len(sequence.reply) for sequence in sequences])
    return {"input_ids": ids, "attention_mask": attention, "reply_mask": reply, "reply_lengths": lengths}


def check_model(directory: Path, longest: int) -> None:
    """Accepts every model: `model/architecture.py` has refused those that are not causal."""


def reply_logprobs(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Per sequence, the sums over its reply tokens, in float32 or better: log-probability `(R,)` in nats, and the entropy `(R,)` of
    the predicted distributions (without gradient). And the log-probability of every reply token `(N,)`, reply after reply.

    The token at position t is predicted at t - 1; logits are computed from the first reply token of the batch on."""
    ids, mask = batch["input_ids"], batch["reply_mask"]
    start = int(mask.any(dim=0).nonzero()[0]) - 1  # the position that predicts the first reply token
    out = model(input_ids=ids, attention_mask=batch["attention_mask"], logits_to_keep=ids.shape[1] - start, use_cache=False)
    logits = out.logits[:, :-1]  # (R, T - start - 1, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets, is_reply = ids[:, start + 1 :], mask[:, start + 1 :]
    total = torch.logsumexp(logits, dim=2)
    token = torch.gather(logits, 2, targets[:, :, None]).squeeze(2) - total
    with torch.no_grad():
        entropy = total - (torch.softmax(logits, dim=2) * logits).sum(dim=2)
    return (token * is_reply).sum(dim=1), (entropy * is_reply).sum(dim=1), token[is_reply]
