"""Puts prompts into a key/value cache: their common beginning once, equal prompts once, the rest in slices of similar length."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from drift.model.architecture import shares_beginnings
from drift.sampler.cpu import bands

MAX_PREFILL_TOKENS = 1024  # tokens of a slice: a larger one does not fit in the CPU's cache
SIMILAR = 1.5  # the ratio of the longest to the shortest prompt of a band


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
        """Copies the prompts at `source` of a filled cache to these rows: the shared beginning, padding, and the rest up to
        `width`."""
        begin = width - filled.length + shared
        for target, states in ((self.key_buffer, filled.keys), (self.value_buffer, filled.values)):
            target[rows, :, :shared] = states[source, :, :shared]
            target[rows, :, shared:begin] = 0  # padding is masked, but must be finite
            target[rows, :, begin:width] = states[source, :, shared:]
        self._show(width)

    def shrink(self, num_rows: int, holes: Any, movers: Any) -> None:
        """Keeps `num_rows` rows: the rows `movers` at the end move to the places `holes` of finished ones."""
        for buffer in (self.key_buffer, self.value_buffer):
            buffer[holes, :, : self.length] = buffer[movers, :, : self.length]
        self.key_buffer, self.value_buffer = self.key_buffer[:num_rows], self.value_buffer[:num_rows]
        self._show(self.length)


class PaddedReplies:
    """The state of decoding with any causal model: one cache for all replies, padded to the longest prompt. Its methods are those
    of `bands.BandedReplies`."""

    def __init__(self, model: Any, cache: Any, mask: Any, positions: Any) -> None:
        self.model, self.cache, self.mask, self.positions = model, cache, mask, positions

    def step(self, tokens: Any) -> Any:
        """Next-token logits `(B, V)` after these `(B,)` tokens."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self.positions = self.positions + 1
        out = self.model(
            input_ids=tokens[:, None], attention_mask=self.mask, position_ids=self.positions[:, None],
            **bands.cache_arguments(self.model, self.cache),
        )  # fmt: skip
        return out.logits[:, -1]

    def keep(self, keep: Any, holes: Any, movers: Any) -> None:
        """Keeps the replies `keep`; those of them at the end, `movers`, move to the places `holes` of finished ones."""
        for layer in self.cache.layers:
            layer.shrink(len(keep), holes, movers)
        self.mask, self.positions = self.mask[keep], self.positions[keep]


def prefill(model: Any, prompts: list[list[int]], max_new_tokens: int, pad_id: int, *, banded: bool) -> tuple[Any, Any]:
    """Next-token logits `(B, V)`, and the state that decoding continues from: `bands.BandedReplies` or `PaddedReplies`.

    Distinct prompts are computed once, in slices of similar length. A row of the cache holds the common beginning, padding, and the
    rest of the prompt. With a window that counts places in the cache, the padding comes first and nothing is shared."""
    ids = list(map(tuple, prompts))
    distinct = sorted(set(ids), key=lambda prompt: (len(prompt), prompt))
    replies_of = bands.replies_by_prompt(ids, distinct)
    shared = _common_prefix(distinct) if shares_beginnings(model.config) else 0
    start = _shared_start(model, distinct[0][:shared])
    positions = torch.tensor([len(prompt) for prompt in ids], device=model.device) - 1
    logits: list[Any] = [None] * len(ids)
    all_bands: list[bands.Band] = []
    for first, end in _similar(distinct) if banded else [(0, len(distinct))]:
        group = distinct[first:end]
        places = [[i] for i in range(len(group))] if banded else replies_of  # a band holds a prompt once, a plain cache per reply
        cache = PromptCache(len(group) if banded else len(ids), len(group[-1]), 0 if banded else max_new_tokens)
        for low, high in _slices(group, shared):
            part, last = _prefill_slice(model, group[low:high], shared, start, pad_id)
            cache.add(part, group[low:high], shared, places[low:high])
            for replies, prompt_logits in zip(replies_of[first + low : first + high], last, strict=True):
                for reply in replies:
                    logits[reply] = prompt_logits
        if not banded:
            return torch.stack(logits), PaddedReplies(model, cache.cache, cache.mask.to(model.device), positions)
        all_bands.append(cache.band(replies_of[first:end]))
    return torch.stack(logits), bands.BandedReplies(model, all_bands, positions, max_new_tokens)


class PromptCache:
    """Prompts in one cache, padded to the longest of them (`width`), with `room` for more tokens."""

    def __init__(self, num_rows: int, width: int, room: int) -> None:
        self.num_rows, self.width = num_rows, width
        self.cache, self.mask = _cache(width + room), torch.zeros((num_rows, width), dtype=torch.long)

    def add(self, part: Any, prompts: Sequence[tuple[int, ...]], shared: int, places: list[list[int]]) -> None:
        """Adds the prompts of a slice, each at all of its places."""
        rows = [row for prompt_rows in places for row in prompt_rows]
        source = torch.tensor([i for i, prompt_rows in enumerate(places) for _ in prompt_rows], device=part.layers[0].keys.device)
        for layer, filled in zip(_layers(self.cache, part, self.num_rows), part.layers, strict=True):
            layer.place(rows, source, filled, shared, self.width)
        self.mask[:, :shared] = 1
        for prompt, prompt_rows in zip(prompts, places, strict=True):
            self.mask[prompt_rows, shared + self.width - len(prompt) :] = 1

    def band(self, replies: list[list[int]]) -> bands.Band:
        """The prompts as a band. `replies`: per prompt, the numbers of its replies."""
        keys, values = [layer.keys for layer in self.cache.layers], [layer.values for layer in self.cache.layers]
        bias = keys[0].new_zeros(self.mask.shape).masked_fill(self.mask.to(keys[0].device) == 0, float("-inf"))
        return bands.Band(keys, values, bias[:, None, None], replies)


def _similar(distinct: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """(first, end) of every band of prompts of similar length; the prompts are sorted by length."""
    low = 0
    for high in range(1, len(distinct) + 1):
        if high == len(distinct) or len(distinct[high]) > SIMILAR * len(distinct[low]) + 16:
            yield low, high
            low = high


def _slices(distinct: Sequence[tuple[int, ...]], shared: int) -> Iterator[tuple[int, int]]:
    """(first, end) of every slice of at most MAX_PREFILL_TOKENS tokens; the prompts are sorted by length."""
    low = 0
    while low < len(distinct):
        high = low + 1
        while high < len(distinct) and (high + 1 - low) * (len(distinct[high]) - shared) <= MAX_PREFILL_TOKENS:
            high += 1
        yield low, high
        low = high


def _shared_start(model: Any, ids: Sequence[int]) -> Any:
    """The cache of the beginning that all prompts share."""
    start = _cache(max(len(ids), 1))
    if ids:
        model(input_ids=torch.tensor([ids], device=model.device), logits_to_keep=1, **bands.cache_arguments(model, start))
    return start


def _prefill_slice(model: Any, prompts: list[tuple[int, ...]], shared: int, start: Any, pad_id: int) -> tuple[Any, Any]:
    """The cache of a few prompts, padded between the shared beginning and the rest, and their next-token logits `(b, V)`."""
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
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, **bands.cache_arguments(model, part))
    return part, out.logits[:, -1]


def _cache(capacity: int) -> Any:
    return Cache(layer_class_to_replicate=type("Layer", (InPlaceLayer,), {"capacity": capacity}))


def _layers(full: Any, part: Any, num_rows: int) -> list[Any]:
    """The layers of the whole group's cache, made with the first slice."""
    if not full.layers:
        for i, layer in enumerate(part.layers):
            full.update(*(t.new_empty((num_rows, t.shape[1], 0, t.shape[3])) for t in (layer.keys, layer.values)), i)
    return full.layers


def _common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """The number of ids that all prompts begin with, without the last id of the shortest prompt, whose logits are needed."""
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)
