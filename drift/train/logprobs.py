"""Log-probabilities of tokens from hidden states, in chunks: no [tokens, vocabulary] tensor ever exists, forward or backward.

With a frozen projection (adapters) the gradient's direction, d log p / d hidden, is made in the forward pass, where the chunk's
probabilities are at hand, so backward costs one multiplication. With a trained one the chunk's logits are computed again.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": 2**28}  # of one chunk of logits: 32 MB of float32, 1 GB


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log p of each target under softmax(hidden @ weight.T), and the entropy of that distribution (no gradient), both `(N,)` in
    nats and in float32 or better. `hidden` `(N, H)`, `weight` `(V, H)`, `targets` `(N,)`."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):  # from here on every format is chosen by hand, forward and backward alike
        return TokenLogprobs.apply(hidden, weight, targets)  # type: ignore[no-any-return]


class TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        used = weight.to(hidden.dtype)
        parts, entropies, directions = [], [], []
        frozen = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        for rows in _chunks(hidden, weight):
            logp = _log_softmax(hidden[rows], used)  # (n, V)
            picked = targets[rows, None]
            parts.append(logp.gather(1, picked).squeeze(1))
            probabilities = logp.exp()
            entropies.append(-torch.einsum("nv,nv->n", probabilities, logp))
            if frozen:
                slope = probabilities.neg_().scatter_add_(1, picked, torch.ones_like(probabilities[:, :1]))
                directions.append(slope.to(hidden.dtype) @ used)
        ctx.save_for_backward(hidden, weight, targets, *([torch.cat(directions)] if frozen else []))
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(parts), entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        hidden, weight, targets, *direction = ctx.saved_tensors
        if direction:
            return (direction[0] * grad[:, None]).to(hidden.dtype), None, None
        used = weight.to(hidden.dtype)
        for_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for_weight = torch.zeros_like(weight)
        for rows in _chunks(hidden, weight):
            slope = _log_softmax(hidden[rows], used).exp_().mul_(-grad[rows, None])
            slope = slope.scatter_add_(1, targets[rows, None], grad[rows, None]).to(hidden.dtype)
            if for_hidden is not None:
                for_hidden[rows] = slope @ used
            if weight.dtype == hidden.dtype:
                for_weight.addmm_(slope.t(), hidden[rows])
            else:
                for_weight += slope.t() @ hidden[rows]
        return for_hidden, for_weight, None


def _log_softmax(hidden: Tensor, weight: Tensor) -> Tensor:
    logits = hidden @ weight.t()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.sub_(torch.logsumexp(logits, dim=1, keepdim=True))


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS[hidden.device.type] // len(weight))
    return [slice(low, min(low + size, len(hidden))) for low in range(0, len(hidden), size)]
