"""Attention of prefix-shared rows: a span of tokens sees its prefix and, causally, itself. Two forms of the same thing.

On a CPU tiles of plain matrix products: no mask of the whole sequence exists, and nothing is spent on pairs of tokens that don't
see each other; backward computes the probabilities again. On a GPU FlexAttention with a block mask.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad
from transformers import AttentionInterface

from drift.errors import UserError

NAME = "prefix_shared"
TILE = 256  # queries of one tile: of the scores of a long prompt the upper half is left out in steps of so many
FLEX_DEVICES = {"cuda"}
FLEX_MIN_HEAD = 16  # numbers of a head: the compiled kernel takes no fewer

# Arguments of attention that don't change what we compute: dropout is off, and who sees whom is ours to say.
NO_ARITHMETIC = {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "output_hidden_states", "cache_position"}

Span = tuple[int, int, int, int]  # tokens [a, b) see the prefix [p, q) and, causally, each other
Tile = tuple[int, int, int, int, int]  # queries [a, b) see the keys of the prefix [p, q) and, causally, those of [s, b)


def plan(spans: Sequence[Span], device: torch.device) -> Any:
    """Who sees whom, in the form that is fastest on the device: tiles for a CPU, a block mask for a GPU."""
    if device.type in FLEX_DEVICES:
        return block_mask(spans, device)
    return tuple((low, min(low + TILE, b), p, q, a) for a, b, p, q in spans for low in range(a, b, TILE))


def longest_row(spans: Sequence[Span]) -> int:
    """Tokens of the longest row, of those that are computed: a span and its prefix."""
    return max(b - a + q - p for a, b, p, q in spans)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, who: Any, longest: int, scaling: float, **rest: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: `(1, H, T, D)` queries, `(1, K, T, D)` keys and values to `(1, T, H, D)`.
    `longest`: tokens of the longest row, prompt and reply."""
    refuse_other_arithmetic(rest, longest)
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    with torch.autocast(kind, enabled=False):
        if isinstance(who, BlockMask):
            missing = max(0, FLEX_MIN_HEAD - query.shape[3])
            wide = (pad(tensor, (0, missing)) for tensor in (query, key, value))  # zeros change no product
            mixed = flex(kind)(*wide, block_mask=who, scale=scaling, enable_gqa=True)
            return mixed[..., : query.shape[3]].transpose(1, 2), None
        return TileAttention.apply(query[0], key[0], value[0], who, scaling)[None], None  # type: ignore[index]


AttentionInterface.register(NAME, attend)


def refuse_other_arithmetic(rest: Mapping[str, Any], longest: int) -> None:
    """An attention function that passes over an argument it does not know (a soft cap, sinks) computes another model. A window
    changes nothing where the longest row, of `longest` tokens, fits into it."""
    given = {name: value for name, value in rest.items() if value is not None and name not in NO_ARITHMETIC}
    if given.get("sliding_window", 0) >= longest:
        del given["sliding_window"]
    if given:
        raise UserError(
            f"This model's attention uses {', '.join(sorted(given))}, which is not computed here (the longest row has {longest} "
            "tokens). Use train.layout=padded."
        )


@cache
def flex(kind: str) -> Any:
    """FlexAttention; compiled on a GPU (elsewhere its plain form, which the tests use, holds all scores).

    A process compiles it anew for every number format, size of heads, and with and without gradients. Beyond its limit of eight
    torch would go on with the plain form, which gives other numbers in their last bits and takes far more memory."""
    if kind != "cuda":
        return flex_attention
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(flex_attention)


def block_mask(spans: Sequence[Span], device: torch.device) -> BlockMask:
    """FlexAttention's mask `(T, T)`: a token sees what stands before it in its own span and all of its prefix."""
    size = max(b for _, b, _, _ in spans)
    own, low, high = (torch.empty(size, dtype=torch.long, device=device) for _ in range(3))
    for a, b, p, q in spans:
        own[a:b], low[a:b], high[a:b] = a, p, q

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ((key >= own[query]) & (key <= query)) | ((key >= low[query]) & (key < high[query]))

    return create_block_mask(sees, None, None, size, size, device=str(device))


class TileAttention(torch.autograd.Function):
    """softmax(scaling * Q K^T) V over the tiles; backward computes the probabilities again instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tiles: tuple[Tile, ...], scaling: float) -> Tensor:
        out = query.new_empty(query.shape[1], query.shape[0], query.shape[2])  # (T, H, D)
        for tile in tiles:
            probabilities, _ = _probabilities(query, key, tile, scaling)
            mixed = probabilities @ _seen(value, tile)  # (K, G t, D)
            out[tile[0] : tile[1]] = mixed.view(query.shape[0], -1, query.shape[2]).transpose(0, 1)
        ctx.save_for_backward(query, key, value, out)
        ctx.tiles, ctx.scaling = tiles, scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        query, key, value, out = ctx.saved_tensors
        for_query, for_key, for_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        groups = len(key)
        for tile in ctx.tiles:
            a, b = tile[:2]
            probabilities, mine = _probabilities(query, key, tile, ctx.scaling)
            keys, values = _seen(key, tile), _seen(value, tile)
            mixed, came = (t[a:b].transpose(0, 1).reshape(groups, -1, query.shape[2]) for t in (grad, out))  # (K, G t, D)
            _add(for_value, probabilities.mT @ mixed, tile)
            slope = mixed @ values.mT
            slope = slope.sub_((mixed * came).sum(dim=2, keepdim=True)).mul_(probabilities).mul_(ctx.scaling)
            for_query[:, a:b] = (slope @ keys).view(len(query), b - a, -1)
            _add(for_key, slope.mT @ mine, tile)
        return for_query, for_key, for_value, None, None


def _probabilities(query: Tensor, key: Tensor, tile: Tile, scaling: float) -> tuple[Tensor, Tensor]:
    """`(K, G t, S)` attention of a tile, G query heads to each of K key heads, and its queries `(K, G t, D)`."""
    a, b = tile[:2]
    mine = query[:, a:b].reshape(len(key), -1, query.shape[2])
    scores = (mine @ _seen(key, tile).mT).mul_(scaling)
    last = scores.view(len(key), -1, b - a, scores.shape[2])[..., a - b :]  # the tile's own keys: all others come before it
    last += _later(TILE, scores.dtype, scores.device)[: b - a, : b - a]
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores, dim=2, dtype=wide).to(scores.dtype), mine


@cache
def _later(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`(t, t)` -inf where a key comes after the query, else 0 (adding it takes a fifth of the time of `masked_fill_`)."""
    return torch.full((size, size), float("-inf"), dtype=dtype, device=device).triu(1)


def _seen(source: Tensor, tile: Tile) -> Tensor:
    """`(K, S, D)` keys or values that a tile sees."""
    _, b, p, q, s = tile
    if p == q:
        return source[:, s:b]
    return source[:, p:b] if q == s else torch.cat([source[:, p:q], source[:, s:b]], dim=1)


def _add(total: Tensor, part: Tensor, tile: Tile) -> None:
    """The reverse of `_seen`: adds a tile's gradients to those of all keys or values."""
    _, b, p, q, s = tile
    total[:, p:q] += part[:, : q - p]
    total[:, s:b] += part[:, q - p :]
