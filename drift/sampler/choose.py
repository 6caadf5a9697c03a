"""From logits and uniform random numbers to tokens: temperature, top-p, inverse of the cumulative distribution."""

from typing import Any

import torch

BLOCK = 64  # neighbouring tokens that are summed, or of which the largest is found, before anything finer is looked at
NUCLEUS = 64  # most likely tokens that top_p tries first; most nuclei are smaller


def choose(logits: Any, uniforms: Any, temperature: float, top_p: float) -> Any:
    """`(B, V)` logits and `(B,)` uniforms to `(B,)` tokens, by the inverse of the cumulative distribution. Raises
    FloatingPointError for logits that are NaN or infinite."""
    if temperature == 0:
        largest, tokens = logits.max(dim=-1)
        _need_finite(largest)
        return tokens
    probabilities = torch.softmax(logits.to(torch.float32, copy=True).div_(temperature), dim=-1)
    if top_p == 1:
        return _pick(probabilities, uniforms)
    size = min(NUCLEUS, logits.shape[1])
    tokens, covered = _pick_likely(probabilities, uniforms, size, top_p)
    while size < logits.shape[1] and not covered.all():
        size = min(8 * size, logits.shape[1])
        rows = (~covered).nonzero().squeeze(1)
        tokens[rows], covered[rows] = _pick_likely(probabilities[rows], uniforms[rows], size, top_p)
    return tokens


def _pick_likely(probabilities: Any, uniforms: Any, size: int, top_p: float) -> tuple[Any, Any]:
    """`(B,)` tokens of the nuclei, if these have at most `size` tokens, and `(B,)` whether they have."""
    likely, ids = _most_likely(probabilities, size)
    upto = likely.cumsum(dim=1, dtype=torch.float64)
    nucleus = likely.masked_fill(upto - likely >= top_p, 0.0)  # the token that crosses top_p belongs to it
    return ids.gather(1, _pick(nucleus, uniforms)[:, None]).squeeze(1), upto[:, -1] >= top_p


def _most_likely(probabilities: Any, count: int) -> tuple[Any, Any]:
    """The `count` largest of each row `(B, V)`, in falling order, and their places: `(B, count)` each.

    No more than `count` blocks hold one of them: those with the largest maxima (192 rows of 49,152 and 64 of them, on a CPU: 22 ms
    against 34 of `topk` alone)."""
    if 4 * count * BLOCK > probabilities.shape[1]:
        return probabilities.topk(count, dim=1)
    blocks = _blocks(probabilities)
    best = blocks.amax(dim=2).topk(count, dim=1).indices
    likely, places = blocks.gather(1, best[:, :, None].expand(-1, -1, BLOCK)).flatten(1).topk(count, dim=1)
    return likely, best.gather(1, places // BLOCK) * BLOCK + places % BLOCK


def _pick(weights: Any, uniforms: Any) -> Any:
    """`(B,)` the index at which the running sum of the weights `(B, n)` exceeds that share of their total. It finds the
    block first, then the place in it, so that double precision costs little."""
    count, blocks = weights.shape[1], _blocks(weights)
    sums = blocks.sum(dim=2, dtype=torch.float64)
    edges = sums.cumsum(dim=1)
    _need_finite(edges[:, -1])  # one such logit makes the whole softmax NaN
    target = uniforms.to(torch.float64)[:, None] * edges[:, -1:]
    block = torch.searchsorted(edges, target, right=True).clamp(max=sums.shape[1] - 1)  # (B, 1)
    inside = blocks[torch.arange(len(weights), device=weights.device), block.squeeze(1)].double().cumsum(dim=1)
    inside += edges.gather(1, block) - sums.gather(1, block)
    within = torch.searchsorted(inside, target, right=True).clamp(max=BLOCK - 1)
    return (block * BLOCK + within).squeeze(1).clamp(max=count - 1)


def _blocks(numbers: Any) -> Any:
    """`(B, n)` to `(B, n / 64, 64)`; the last block is filled up with zeros."""
    missing = -numbers.shape[1] % BLOCK
    filled = torch.nn.functional.pad(numbers, (0, missing)) if missing else numbers
    return filled.view(len(numbers), -1, BLOCK)


def _need_finite(numbers: Any) -> None:
    if not torch.isfinite(numbers).all():
        raise FloatingPointError("the model's logits are not finite")
