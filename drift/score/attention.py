"""Attention of the prefix-shared layout: a span of tokens attends to its prefix and, causally, to itself. Two equal forms.

On a CPU: tiles of plain matrix products, without a mask of the whole batch and without work for pairs of tokens that don't attend
to each other; backward computes the probabilities again. On a GPU: FlexAttention with a block mask.
"""

import os
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad

from drift.errors import UserError

NAME = "prefix_shared"
TILE = 256  # queries in a tile: the upper half of a long prompt's scores is skipped in steps of this size
FLEX_DEVICES = {"cuda"}
FLEX_MIN_HEAD = 16  # the least head size of the compiled kernel

# Arguments of attention that don't change the result: dropout is off, and this file decides what each token attends to.
HARMLESS = {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "output_hidden_states", "cache_position"}

Span = tuple[int, int, int, int]  # tokens [a, b) attend to the prefix [p, q) and, causally, to each other
Tile = tuple[int, int, int, int, int]  # queries [a, b) attend to the keys of the prefix [p, q) and, causally, to those of [s, b)


def visibility(spans: Sequence[Span], device: torch.device) -> Any:
    """Which token attends to which, in the form that is fastest on the device: tiles for a CPU, a block mask for a GPU."""
    if device.type in FLEX_DEVICES:
        return block_mask(spans, device)
    return tuple((low, min(low + TILE, b), p, q, a) for a, b, p, q in spans for low in range(a, b, TILE))


def longest_sequence(spans: Sequence[Span]) -> int:
    """Tokens of the longest sequence that is computed: a span and its prefix."""
    return max(b - a + q - p for a, b, p, q in spans)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, visible: Any, longest: int, scaling: float, **rest: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: `(1, H, T, D)` queries, `(1, K, T, D)` keys and values to `(1, T, H, D)`.
    `visible`: from `visibility`. `longest`: tokens of the longest sequence, prompt and reply."""
    refuse_unknown_arguments(rest, longest)
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    with torch.autocast(kind, enabled=False):
        if isinstance(visible, BlockMask):
            missing = max(0, FLEX_MIN_HEAD - query.shape[3])
            padded = (pad(tensor, (0, missing)) for tensor in (query, key, value))  # zeros change no product
            out = flex(kind)(*padded, block_mask=visible, scale=scaling, enable_gqa=True)
            return out[..., : query.shape[3]].transpose(1, 2), None
        return TileAttention.apply(query[0], key[0], value[0], visible, scaling)[None], None  # type: ignore[index]


@cache
def registered() -> str:
    """The name under which transformers knows `attend`. Importing the models' code takes seconds, which nobody needs to wait for
    whose results are all in the store."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME


def refuse_unknown_arguments(rest: Mapping[str, Any], longest: int) -> None:
    """Refuses arguments that these attention functions don't implement (a soft cap, sinks): without them they would compute
    another model. A window changes nothing if the longest sequence, of `longest` tokens, fits into it."""
    given = {name: value for name, value in rest.items() if value is not None and name not in HARMLESS}
    if given.get("sliding_window", 0) >= longest:
        del given["sliding_window"]
    if given:
        raise UserError(
            f"This model's attention uses {', '.join(sorted(given))}, which the fast paths don't support (the longest sequence has "
            f"{longest} tokens). Use train.layout=padded."
        )


def flex(kind: str) -> Any:
    """FlexAttention: compiled on a GPU; elsewhere, for the tests, its plain form, which holds all scores in memory.

    It is compiled again for every number format, head size, and with and without gradients. Beyond its limit of eight, torch would
    silently use the plain form, whose numbers differ in the last bits and which takes far more memory. The limit is a thread's own
    since torch 2.13, and with gradient checkpointing another thread computes a layer again."""
    if kind != "cuda":
        return flex_attention
    config = torch._dynamo.config
    if not config.fail_on_recompile_limit_hit:
        config.recompile_limit, config.fail_on_recompile_limit_hit = 64, True
    return _compiled()


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


def check_compiler() -> None:
    """Refuses a GPU for which nothing can be compiled: torch builds a launcher in C for every kernel."""
    if not torch.cuda.is_available():
        return
    header = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if missing := "a C compiler" if not compiler else f"Python's headers ({header})" if not header.is_file() else "":
        raise UserError(
            f"train.layout=shared compiles its attention for the GPU, and this machine lacks {missing}. Install a compiler and the "
            "headers (on Debian and Ubuntu: apt-get install gcc python3-dev), or use train.layout=padded."
        )


def block_mask(spans: Sequence[Span], device: torch.device) -> BlockMask:
    """FlexAttention's mask `(T, T)`: a token attends to the earlier tokens of its span and to all of its prefix."""
    size = max(b for _, b, _, _ in spans)
    first, low, high = (torch.empty(size, dtype=torch.long, device=device) for _ in range(3))
    for a, b, p, q in spans:
        first[a:b], low[a:b], high[a:b] = a, p, q

    def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ((key >= first[query]) & (key <= query)) | ((key >= low[query]) & (key < high[query]))

    return create_block_mask(attends, None, None, size, size, device=str(device))


class TileAttention(torch.autograd.Function):
    """softmax(scaling * Q K^T) V over the tiles; backward computes the probabilities again instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tiles: tuple[Tile, ...], scaling: float) -> Tensor:
        out = query.new_empty(query.shape[1], query.shape[0], query.shape[2])  # (T, H, D)
        for tile in tiles:
            probabilities, _ = _probabilities(query, key, tile, scaling)
            heads = probabilities @ _visible(value, tile)  # (K, G t, D)
            out[tile[0] : tile[1]] = heads.view(query.shape[0], -1, query.shape[2]).transpose(0, 1)
        ctx.save_for_backward(query, key, value, out)
        ctx.tiles, ctx.scaling = tiles, scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        query, key, value, out = ctx.saved_tensors
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        groups = len(key)
        for tile in ctx.tiles:
            a, b = tile[:2]
            probabilities, queries = _probabilities(query, key, tile, ctx.scaling)
            keys, values = _visible(key, tile), _visible(value, tile)
            grad_heads, out_heads = (t[a:b].transpose(0, 1).reshape(groups, -1, query.shape[2]) for t in (grad, out))  # (K, G t, D)
            _add(grad_value, probabilities.mT @ grad_heads, tile)
            slope = grad_heads @ values.mT
            slope = slope.sub_((grad_heads * out_heads).sum(dim=2, keepdim=True)).mul_(probabilities).mul_(ctx.scaling)
            grad_query[:, a:b] = (slope @ keys).view(len(query), b - a, -1)
            _add(grad_key, slope.mT @ queries, tile)
        return grad_query, grad_key, grad_value, None, None


def _probabilities(query: Tensor, key: Tensor, tile: Tile, scaling: float) -> tuple[Tensor, Tensor]:
    """`(K, G t, S)` attention of a tile, G query heads to each of K key heads, and its queries `(K, G t, D)`."""
    a, b = tile[:2]
    queries = query[:, a:b].reshape(len(key), -1, query.shape[2])
    scores = (queries @ _visible(key, tile).mT).mul_(scaling)
    last = scores.view(len(key), -1, b - a, scores.shape[2])[..., a - b :]  # the tile's own keys: all others come before it
    last += _causal_mask(TILE, scores.dtype, scores.device)[: b - a, : b - a]
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores, dim=2, dtype=wide).to(scores.dtype), queries


@cache
def _causal_mask(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`(t, t)` -inf where a key comes after the query, else 0 (adding it takes a fifth of the time of `masked_fill_`)."""
    return torch.full((size, size), float("-inf"), dtype=dtype, device=device).triu(1)


def _visible(source: Tensor, tile: Tile) -> Tensor:
    """`(K, S, D)` keys or values that a tile attends to."""
    _, b, p, q, s = tile
    if p == q:
        return source[:, s:b]
    return source[:, p:b] if q == s else torch.cat([source[:, p:q], source[:, s:b]], dim=1)


def _add(total: Tensor, part: Tensor, tile: Tile) -> None:
    """The reverse of `_visible`: adds a tile's gradients to those of all keys or values."""
    _, b, p, q, s = tile
    total[:, p:q] += part[:, : q - p]
    total[:, s:b] += part[:, q - p :]
