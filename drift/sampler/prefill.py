"""Prompts into a key/value cache: what they all begin with once, equal prompts once, the rest in slices of similar length."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

MAX_PREFILL_TOKENS = 1024  # of one slice: larger ones only fall out of the CPU's cache


class InPlaceLayer(DynamicLayer):
    """Keys and values `(B, H, T, D)` in a buffer that is allocated once for `capacity` positions."""

    capacity = 0

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            shape = (key_states.shape[0], key_states.shape[1], self.capacity, key_states.shape[3])
            self.key_buffer, self.value_buffer = key_states.new_empty(shape), value_states.new_empty(shape)
            self.length = 0
        end = self.length + key_states.shape[2]
        self.key_buffer[:, :, self.length : end] = key_states
        self.value_buffer[:, :, self.length : end] = value_states
        self._show(end)
        return self.keys, self.values

    def _show(self, length: int) -> None:
        self.length = length
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]

    def place(self, rows: list[int], source: Any, filled: "InPlaceLayer", shared: int, width: int) -> None:
        """Puts the prompts of a filled cache, `source` of it, into these rows: the shared beginning, and the rest up to `width`."""
        begin = width - filled.length + shared
        for mine, theirs in ((self.key_buffer, filled.keys), (self.value_buffer, filled.values)):
            mine[rows, :, :shared] = theirs[source, :, :shared]
            mine[rows, :, shared:begin] = 0  # padding is masked, but must be finite
            mine[rows, :, begin:width] = theirs[source, :, shared:]
        self._show(width)

    def shrink(self, num_rows: int, holes: Any, movers: Any) -> None:
        """Keeps `num_rows` rows: the last ones, `movers`, take the places of finished ones, `holes`."""
        for buffer in (self.key_buffer, self.value_buffer):
            buffer[holes, :, : self.length] = buffer[movers, :, : self.length]
        self.key_buffer, self.value_buffer = self.key_buffer[:num_rows], self.value_buffer[:num_rows]
        self._show(self.length)


def prefill(model: Any, prompts: list[list[int]], max_new_tokens: int, pad_id: int) -> tuple[Any, Any, Any, Any]:
    """Next-token logits `(B, V)`, the filled cache, its mask `(B, T)` and the last position `(B,)` of every row.

    A row of the cache is: what all prompts begin with, then padding, then the rest of its prompt. Distinct prompts are computed
    in slices of similar length, and copied to the rows of all their samples."""
    device = model.device
    distinct = sorted(set(map(tuple, prompts)), key=lambda ids: (len(ids), ids))
    shared, width = _common_prefix(distinct), len(distinct[-1])
    start = _cache(max(shared, 1))
    if shared:
        begin = torch.tensor([distinct[0][:shared]], device=device)
        model(input_ids=begin, past_key_values=start, use_cache=True, logits_to_keep=1)
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows_of.setdefault(tuple(prompt), []).append(row)
    full = _cache(width + max_new_tokens)
    mask = torch.zeros((len(prompts), width), dtype=torch.long, device=device)
    mask[:, :shared] = 1
    logits: list[Any] = [None] * len(prompts)
    low = 0
    while low < len(distinct):
        high = low + 1
        while high < len(distinct) and (high + 1 - low) * (len(distinct[high]) - shared) <= MAX_PREFILL_TOKENS:
            high += 1
        part, last = _prefill_slice(model, distinct[low:high], shared, start, pad_id)
        rows = [row for prompt in distinct[low:high] for row in rows_of[prompt]]
        source = torch.tensor([i for i, prompt in enumerate(distinct[low:high]) for _ in rows_of[prompt]], device=device)
        for layer, filled in zip(_layers(full, part, len(prompts)), part.layers, strict=True):
            layer.place(rows, source, filled, shared, width)
        for row, i in zip(rows, source.tolist(), strict=True):
            mask[row, shared + width - len(prompts[row]) :] = 1
            logits[row] = last[i]
        low = high
    return torch.stack(logits), full, mask, mask.sum(dim=1) - 1


def _prefill_slice(model: Any, prompts: list[tuple[int, ...]], shared: int, start: Any, pad_id: int) -> tuple[Any, Any]:
    """The cache of a few prompts, padded on the left of what they don't share, and their next-token logits `(b, V)`."""
    width = len(prompts[-1])
    ids = torch.full((len(prompts), width - shared), pad_id, device=model.device)
    mask = torch.zeros((len(prompts), width), dtype=torch.long, device=model.device)
    mask[:, :shared] = 1
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt[shared:], device=model.device)
        mask[i, shared + width - len(prompt) :] = 1
    part = _cache(width)
    if shared:
        for i, layer in enumerate(start.layers):
            part.update(*(t.expand(len(prompts), -1, -1, -1) for t in (layer.keys, layer.values)), i)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=part, use_cache=True, logits_to_keep=1)
    return part, out.logits[:, -1]


def _cache(capacity: int) -> Any:
    return Cache(layer_class_to_replicate=type("Layer", (InPlaceLayer,), {"capacity": capacity}))


def _layers(full: Any, part: Any, num_rows: int) -> list[Any]:
    """The layers of the whole group's cache, made at the first slice."""
    if not full.layers:
        for i, layer in enumerate(part.layers):
            empty = layer.keys.new_empty((num_rows, layer.keys.shape[1], 0, layer.keys.shape[3]))
            full.update(empty, empty, i)
    return full.layers


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many ids all prompts begin with; the last id of the shortest is never counted (its logits are needed)."""
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)
