"""Prompts into a key/value cache: what they all begin with once, equal prompts once, the rest in slices of similar length."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from drift.model.architecture import shares_beginnings
from drift.sampler.cpu import bands

MAX_PREFILL_TOKENS = 1024  # of one slice: larger ones only fall out of the CPU's cache
SIMILAR = 1.5  # the longest prompt of a band to its shortest


class InPlaceLayer(DynamicLayer):
    """Keys and values `(B, H, T, D)` in a buffer that is allocated once for `capacity` positions."""

    capacity = 0
    keys: Any
    values: Any

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_buffer, self.value_buffer = (
                states.new_empty((*states.shape[:2], self.capacity, states.shape[3])) for states in (key_states, value_states)
            )
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


class Plain:
    """The state of decoding with any causal model: one cache for all rows, padded to the longest prompt. As `bands.Replies`."""

    def __init__(self, model: Any, cache: Any, mask: Any, positions: Any) -> None:
        self.model, self.cache, self.mask, self.positions = model, cache, mask, positions

    def step(self, tokens: Any) -> Any:
        """Next-token logits `(B, V)` after these `(B,)` tokens."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self.positions = self.positions + 1
        out = self.model(
            input_ids=tokens[:, None], attention_mask=self.mask, position_ids=self.positions[:, None],
            **bands.taking(self.model, self.cache),
        )  # fmt: skip
        return out.logits[:, -1]

    def keep(self, keep: Any, holes: Any, movers: Any) -> None:
        """The rows `keep` go on; those at the end, `movers`, stand in for finished ones, `holes`."""
        for layer in self.cache.layers:
            layer.shrink(len(keep), holes, movers)
        self.mask, self.positions = self.mask[keep], self.positions[keep]


def prefill(model: Any, prompts: list[list[int]], max_new_tokens: int, pad_id: int, *, banded: bool) -> tuple[Any, Any]:
    """Next-token logits `(B, V)`, and the state that decoding goes on from: `bands.Replies` or `Plain`.

    Distinct prompts are computed once, in slices of similar length; a row is: what all prompts begin with, padding, the rest. Where
    a window counts places in the cache, padding stands on the left alone and nothing is shared."""
    rows = list(map(tuple, prompts))
    distinct = sorted(set(rows), key=lambda ids: (len(ids), ids))
    seats = bands.seats(rows, distinct)
    shared = _common_prefix(distinct) if shares_beginnings(model.config) else 0
    start = _shared_start(model, distinct[0][:shared])
    positions = torch.tensor([len(row) for row in rows], device=model.device) - 1
    logits: list[Any] = [None] * len(rows)
    found: list[bands.Band] = []
    for first, end in _similar(distinct) if banded else [(0, len(distinct))]:
        together = distinct[first:end]
        places = [[i] for i in range(len(together))] if banded else seats  # a band holds a prompt once, a plain cache for every row
        padded = Padded(len(together) if banded else len(rows), len(together[-1]), 0 if banded else max_new_tokens)
        for low, high in _slices(together, shared):
            part, last = _prefill_slice(model, together[low:high], shared, start, pad_id)
            padded.add(part, together[low:high], shared, places[low:high])
            for of, row_logits in zip(seats[first + low : first + high], last, strict=True):
                for row in of:
                    logits[row] = row_logits
        if not banded:
            return torch.stack(logits), Plain(model, padded.cache, padded.mask.to(model.device), positions)
        found.append(padded.band(seats[first:end]))
    return torch.stack(logits), bands.Replies(model, found, positions, max_new_tokens)


class Padded:
    """Prompts in one cache, as wide as the longest of them and `room` for more."""

    def __init__(self, num_rows: int, width: int, room: int) -> None:
        self.num_rows, self.width = num_rows, width
        self.cache, self.mask = _cache(width + room), torch.zeros((num_rows, width), dtype=torch.long)

    def add(self, part: Any, prompts: Sequence[tuple[int, ...]], shared: int, places: list[list[int]]) -> None:
        """The slice's prompts, each in all of its places."""
        rows = [row for of in places for row in of]
        source = torch.tensor([i for i, of in enumerate(places) for _ in of], device=part.layers[0].keys.device)
        for layer, filled in zip(_layers(self.cache, part, self.num_rows), part.layers, strict=True):
            layer.place(rows, source, filled, shared, self.width)
        self.mask[:, :shared] = 1
        for prompt, of in zip(prompts, places, strict=True):
            self.mask[of, shared + self.width - len(prompt) :] = 1

    def band(self, replies: list[list[int]]) -> bands.Band:
        keys, values = [layer.keys for layer in self.cache.layers], [layer.values for layer in self.cache.layers]
        bias = keys[0].new_zeros(self.mask.shape).masked_fill(self.mask.to(keys[0].device) == 0, float("-inf"))
        return bands.Band(keys, values, bias[:, None, None], replies)


def _similar(distinct: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Borders of bands: prompts, sorted by length, of similar length."""
    low = 0
    for high in range(1, len(distinct) + 1):
        if high == len(distinct) or len(distinct[high]) > SIMILAR * len(distinct[low]) + 16:
            yield low, high
            low = high


def _slices(distinct: Sequence[tuple[int, ...]], shared: int) -> Iterator[tuple[int, int]]:
    """Borders of slices: prompts, sorted by length, of few enough tokens."""
    low = 0
    while low < len(distinct):
        high = low + 1
        while high < len(distinct) and (high + 1 - low) * (len(distinct[high]) - shared) <= MAX_PREFILL_TOKENS:
            high += 1
        yield low, high
        low = high


def _shared_start(model: Any, ids: Sequence[int]) -> Any:
    """The cache of what all prompts begin with."""
    start = _cache(max(len(ids), 1))
    if ids:
        model(input_ids=torch.tensor([ids], device=model.device), logits_to_keep=1, **bands.taking(model, start))
    return start


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
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, **bands.taking(model, part))
    return part, out.logits[:, -1]


def _cache(capacity: int) -> Any:
    return Cache(layer_class_to_replicate=type("Layer", (InPlaceLayer,), {"capacity": capacity}))


def _layers(full: Any, part: Any, num_rows: int) -> list[Any]:
    """The layers of the whole group's cache, made at the first slice."""
    if not full.layers:
        for i, layer in enumerate(part.layers):
            full.update(*(kept.new_empty((num_rows, kept.shape[1], 0, kept.shape[3])) for kept in (layer.keys, layer.values)), i)
    return full.layers


def _common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many ids all prompts begin with; the last id of the shortest is never counted (its logits are needed)."""
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)
