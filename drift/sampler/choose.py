"""From logits and uniform random numbers to tokens: temperature, top-p, inverse of the cumulative distribution."""

from typing import Any

import torch

BLOCK = 64  # probabilities that are summed before the running sum in double precision
NUCLEUS = 512  # number of most likely tokens that top_p tries first


def choose(logits: Any, uniforms: Any, temperature: float, top_p: float) -> Any:
    """`(B, V)` logits and `(B,)` uniforms to `(B,)` tokens, by the inverse of the cumulative distribution. Raises
    FloatingPointError for logits that are NaN or infinite."""
    if temperature == 0:
        largest, tokens = logits.max(dim=-1)
        _need_finite(largest)
        return tokens
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p == 1:
        return _pick(probabilities, uniforms)
    size = min(NUCLEUS, logits.shape[1])
    likely, ids = probabilities.topk(size, dim=1)
    while size < logits.shape[1] and likely.sum(dim=1).min() < top_p:  # a nucleus is rarely this large
        size = min(8 * size, logits.shape[1])
        likely, ids = probabilities.topk(size, dim=1)
    before = likely.cumsum(dim=1) - likely
    nucleus = likely.masked_fill(before >= top_p, 0.0)  # the token that crosses top_p belongs to it
    return ids.gather(1, _pick(nucleus, uniforms)[:, None]).squeeze(1)


def _pick(weights: Any, uniforms: Any) -> Any:
    """`(B,)` the index at which the running sum of the weights `(B, n)` exceeds that share of their total. It finds the
    block first, then the place in it, so that double precision costs little."""
    count = weights.shape[1]
    blocks = torch.nn.functional.pad(weights, (0, -count % BLOCK)).view(len(weights), -1, BLOCK)  # (B, n / 64, 64)
    sums = blocks.sum(dim=2, dtype=torch.float64)
    edges = sums.cumsum(dim=1)
    _need_finite(edges[:, -1])  # one such logit makes the whole softmax NaN
    target = uniforms.to(torch.float64)[:, None] * edges[:, -1:]
    block = torch.searchsorted(edges, target, right=True).clamp(max=sums.shape[1] - 1)  # (B, 1)
    inside = blocks[torch.arange(len(weights), device=weights.device), block.squeeze(1)].double().cumsum(dim=1)
    inside += edges.gather(1, block) - sums.gather(1, block)
    within = torch.searchsorted(inside, target, right=True).clamp(max=BLOCK - 1)
    return (block * BLOCK + within).squeeze(1).clamp(max=count - 1)


def _need_finite(numbers: Any) -> None:
    if not torch.isfinite(numbers).all():
        raise FloatingPointError("the model's logits are not finite")
