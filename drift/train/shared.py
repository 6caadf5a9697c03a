"""Prefix-shared rows without padding (after arXiv 2410.20305): a prompt is computed once, every reply attends to it and to itself
and never to another reply; only positions that predict a reply token reach the vocabulary.

All rows of a batch lie one after another in a single sequence `(1, T)`. Attention is computed in tiles of plain matrix
products, so no mask of the whole sequence exists and nothing is spent on pairs of tokens that don't see each other. The model's
code is untouched: position ids, and an attention function registered under a name of its own.

A reply's last token predicts nothing and is seen by nobody: it is a target only.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from drift.errors import UserError
from drift.train.logprobs import token_logprobs
from drift.train.rows import Row

ATTENTION = "prefix_shared"
TILE = 256  # queries of one tile: of the scores of a long prompt the upper half is left out in steps of so many

Tile = tuple[int, int, int, int, int]  # queries [a, b) see the keys of the prefix [p, q) and, causally, those of [s, b)


def num_tokens(rows: Sequence[Row]) -> int:
    """Tokens that a batch of these rows computes."""
    return sum(map(len, {tuple(row.prompt) for row in rows})) + sum(len(row.reply) - 1 for row in rows)


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
    """One sequence of T tokens for R rows with N reply tokens: input_ids, position_ids `(1, T)`; predict `(N,)`, the positions that
    predict the reply tokens targets `(N,)` of the rows owner `(N,)`; reply_lengths `(R,)`; tiles."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(tuple(row.prompt), []).append(i)
    ids: list[int] = []
    positions: list[int] = []
    predict: dict[int, list[int]] = {}
    tiles: list[Tile] = []
    for prompt, members in groups.items():
        begin, end = len(ids), len(ids) + len(prompt)
        ids += prompt
        positions += range(len(prompt))
        tiles += _tiles(begin, end, begin, begin)
        for i in members:
            first, seen = len(ids), rows[i].reply[:-1]
            ids += seen
            positions += range(len(prompt), len(prompt) + len(seen))
            tiles += _tiles(first, first + len(seen), begin, end)
            predict[i] = [end - 1, *range(first, first + len(seen))]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "predict": torch.tensor([position for i in range(len(rows)) for position in predict[i]]),
        "targets": torch.tensor([token for row in rows for token in row.reply]),
        "owner": torch.tensor([i for i, row in enumerate(rows) for _ in row.reply]),
        "reply_lengths": torch.tensor([len(row.reply) for row in rows]),
        "tiles": tuple(tiles),
    }


def _tiles(first: int, last: int, prefix: int, prefix_end: int) -> list[Tile]:
    return [(low, min(low + TILE, last), prefix, prefix_end, first) for low in range(first, last, TILE)]


def reply_logprobs(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """As in `padded.py`: summed log-probability and entropy `(R,)` of the rows' reply tokens.

    `batch["hidden"]` `(T, H)`, where given, stands for the lower layers, which `frozen.py` has taken off."""
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    whole.set_attn_implementation(ATTENTION)
    start = {"inputs_embeds": batch["hidden"][None]} if "hidden" in batch else {"input_ids": batch["input_ids"]}
    out = whole.base_model(**start, position_ids=batch["position_ids"], tiles=batch["tiles"], use_cache=False)
    hidden = out.last_hidden_state[0, batch["predict"]]  # (N, H)
    logp, entropy = token_logprobs(hidden, whole.get_output_embeddings().weight, batch["targets"])
    zeros = logp.new_zeros(len(batch["reply_lengths"]))
    return zeros.index_add(0, batch["owner"], logp), zeros.index_add(0, batch["owner"], entropy)


def check_model(directory: Path) -> None:
    """Refuses models whose attention the tiles would change."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    kind, layers = config.get("model_type"), set(config.get("layer_types") or ["full_attention"])
    if kind not in ("llama", "qwen2"):
        why = f"its type is {kind}; Llama and Qwen2 models are known to give the same numbers"
    elif config.get("use_sliding_window") or layers != {"full_attention"}:
        why = "it has layers with sliding-window attention"
    else:
        return
    raise UserError(f"train.rows=shared can't train the model in {directory}: {why}. Use train.rows=padded.")


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, tiles: tuple[Tile, ...], scaling: float, **rest: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: `(1, H, T, D)` queries, `(1, K, T, D)` keys and values to `(1, T, H, D)`."""
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    with torch.autocast(kind, enabled=False):
        mixed = TileAttention.apply(query[0].to(dtype), key[0].to(dtype), value[0].to(dtype), tiles, scaling)
    return mixed[None], None  # type: ignore[index]


AttentionInterface.register(ATTENTION, attend)


class TileAttention(torch.autograd.Function):
    """softmax(scaling * Q K^T) V over the tiles; backward computes the probabilities again instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tiles: tuple[Tile, ...], scaling: float) -> Tensor:
        out = query.new_empty(query.shape[1], query.shape[0], query.shape[2])  # (T, H, D)
        for tile in tiles:
            probabilities, _ = _probabilities(query, key, tile, scaling)
            mixed = probabilities @ _seen(value, tile)  # (K, G t, D)
            out[tile[0] : tile[1]] = mixed.view(query.shape[0], -1, query.shape[2]).transpose(0, 1)
        ctx.save_for_backward(query, key, value)
        ctx.tiles, ctx.scaling = tiles, scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        query, key, value = ctx.saved_tensors
        for_query, for_key, for_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        groups = len(key)
        for tile in ctx.tiles:
            a, b = tile[:2]
            probabilities, mine = _probabilities(query, key, tile, ctx.scaling)
            keys, values = _seen(key, tile), _seen(value, tile)
            mixed = grad[a:b].transpose(0, 1).reshape(groups, -1, query.shape[2])  # (K, G t, D)
            _add(for_value, probabilities.mT @ mixed, tile)
            slope = mixed @ values.mT
            slope = slope.sub_((slope * probabilities).sum(dim=2, keepdim=True)).mul_(probabilities).mul_(ctx.scaling)
            for_query[:, a:b] = (slope @ keys).view(len(query), b - a, -1)
            _add(for_key, slope.mT @ mine, tile)
        return for_query, for_key, for_value, None, None


def _probabilities(query: Tensor, key: Tensor, tile: Tile, scaling: float) -> tuple[Tensor, Tensor]:
    """`(K, G t, S)` attention of a tile, G query heads to each of K key heads, and its queries `(K, G t, D)`."""
    a, b, _, _, s = tile
    mine = query[:, a:b].reshape(len(key), -1, query.shape[2])
    scores = (mine @ _seen(key, tile).mT).mul_(scaling)
    own = scores.view(len(key), -1, b - a, scores.shape[2])[..., scores.shape[2] - (b - s) :]
    own.masked_fill_(_later(b - a, b - s, scores.device), float("-inf"))
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores, dim=2, dtype=wide).to(scores.dtype), mine


@cache
def _later(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """`(t, k)` True where a key comes after the query; the last key is the last query's own."""
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).triu(num_keys - num_queries + 1)


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
