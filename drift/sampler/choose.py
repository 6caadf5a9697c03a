"""From logits and uniforms to tokens: temperature, top-p, inverse of the cumulative distribution."""

from typing import Any

import torch

BLOCK = 64  # probabilities that are summed before the double-precision running sum
NUCLEUS = 512  # most likely tokens that top_p looks at first


def choose(logits: Any, uniforms: Any, temperature: float, top_p: float) -> Any:
    """`(B, V)` logits and `(B,)` uniforms to `(B,)` tokens, by the inverse of the cumulative distribution. FloatingPointError where
    a row holds a logit that is nan or inf."""
    if temperature == 0:
        most, tokens = logits.max(dim=-1)
        _need_finite(most)
        return tokens
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p == 1:
        return _pick(probabilities, uniforms)
    size = min(NUCLEUS, logits.shape[1])
    likely, ids = probabilities.topk(size, dim=1)
    while size < logits.shape[1] and likely.sum(dim=1).min() < top_p:  # a nucleus is rarely so large
        size = min(8 * size, logits.shape[1])
        likely, ids = probabilities.topk(size, dim=1)
    before = likely.cumsum(dim=1) - likely
    kept = likely.masked_fill(before >= top_p, 0.0)  # the token that crosses top_p stays
    return ids.gather(1, _pick(kept, uniforms)[:, None]).squeeze(1)


def _pick(weights: Any, uniforms: Any) -> Any:
    """`(B,)` the index at which the running sum of the weights `(B, n)` passes that share of the whole: first the block, then
    inside it, so that double precision costs little."""
    count = weights.shape[1]
    blocks = torch.nn.functional.pad(weights, (0, -count % BLOCK)).view(len(weights), -1, BLOCK)  # (B, n / 64, 64)
    sums = blocks.sum(dim=2, dtype=torch.float64)
    edges = sums.cumsum(dim=1)
    _need_finite(edges[:, -1])  # a softmax over one such logit is nan throughout
    target = uniforms.to(torch.float64)[:, None] * edges[:, -1:]
    block = torch.searchsorted(edges, target, right=True).clamp(max=sums.shape[1] - 1)  # (B, 1)
    inside = blocks[torch.arange(len(weights), device=weights.device), block.squeeze(1)].double().cumsum(dim=1)
    inside += edges.gather(1, block) - sums.gather(1, block)
    within = torch.searchsorted(inside, target, right=True).clamp(max=BLOCK - 1)
    return (block * BLOCK + within).squeeze(1).clamp(max=count - 1)


def _need_finite(numbers: Any) -> None:
    if not torch.isfinite(numbers).all():
        raise FloatingPointError("logits that are no finite numbers")
