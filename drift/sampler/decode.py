"""The decoding loop: a group of prompts in, sampled token ids out.

Against `generate` of transformers: the noise is given (one uniform per row and position, inverse CDF), so a reply does not
depend on its neighbours; the beginning that all prompts share (a system message) and a prompt's several samples are
computed once; finished rows leave the batch; keys and values are written in place instead of being copied at every token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

MAX_PREFILL_TOKENS = 1024  # rows are prefilled in slices of about so many tokens: larger ones only fall out of the CPU's cache


@dataclass(frozen=True, kw_only=True)
class Row:
    """One reply to sample: the prompt's token ids and `(max_new_tokens,)` uniforms."""

    prompt: Sequence[int]
    uniforms: Any


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
        self.length = end
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values

    def shrink(self, num_rows: int, holes: Any, movers: Any) -> None:
        """Keeps `num_rows` rows: the last ones, `movers`, take the places of finished ones, `holes`."""
        for buffer in (self.key_buffer, self.value_buffer):
            buffer[holes, :, : self.length] = buffer[movers, :, : self.length]
        self.key_buffer, self.value_buffer = self.key_buffer[:num_rows], self.value_buffer[:num_rows]


@torch.inference_mode()
def sample(
    model: Any,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    stop_ids: set[int],
    pad_id: int,
    on_token: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Token ids of one reply per row, the stop token included where one was sampled. `temperature` 0 is greedy."""
    logits, cache, mask, positions = _prefill(model, [list(row.prompt) for row in rows], max_new_tokens, pad_id)
    device = logits.device
    uniforms = torch.stack([torch.as_tensor(row.uniforms) for row in rows]).to(device)  # (B, max_new_tokens)
    stops = torch.tensor(sorted(stop_ids), device=device)
    replies: list[list[int]] = [[] for _ in rows]
    active = list(range(len(rows)))  # the rows still in the batch, as indices into `rows`
    for step in range(max_new_tokens):
        tokens = choose(logits, uniforms[active, step], temperature, top_p)  # (B,)
        for row, token in zip(active, tokens.tolist(), strict=True):
            replies[row].append(token)
        keep = (~torch.isin(tokens, stops)).nonzero().squeeze(1)
        on_token()
        if len(keep) == 0 or step + 1 == max_new_tokens:
            break
        if len(keep) < len(active):
            keep = _fill_holes(keep)
            moved = (keep != torch.arange(len(keep), device=device)).nonzero().squeeze(1)
            for layer in cache.layers:
                layer.shrink(len(keep), moved, keep[moved])
            tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
            active = [active[i] for i in keep.tolist()]
        mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        positions = positions + 1
        out = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1]
    return replies


def _fill_holes(keep: Any) -> Any:
    """The rows to keep, ascending, reordered so that all but the last stay where they are: those take the finished rows' places."""
    stay = keep[keep < len(keep)]
    places = torch.empty_like(keep)
    free = torch.ones(len(keep), dtype=torch.bool, device=keep.device)
    free[stay] = False
    places[stay] = stay
    places[free] = keep[len(stay) :]
    return places


def choose(logits: Any, uniforms: Any, temperature: float, top_p: float) -> Any:
    """`(B, V)` logits and `(B,)` uniforms to `(B,)` tokens, by the inverse of the cumulative distribution."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    ids = None
    if top_p < 1:
        probabilities, ids = probabilities.sort(dim=-1, descending=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)  # the token that crosses top_p stays
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    target = uniforms.to(cumulative.dtype)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[1] - 1)  # (B, 1)
    return drawn.squeeze(1) if ids is None else ids.gather(1, drawn).squeeze(1)


def _prefill(model: Any, prompts: list[list[int]], max_new_tokens: int, pad_id: int) -> tuple[Any, Any, Any, Any]:
    """Next-token logits `(B, V)`, the filled cache, its mask `(B, T)` and the last position `(B,)` of every row.

    A row of the cache is: what all prompts begin with, then padding, then the rest of its prompt."""
    device = model.device
    distinct = sorted(set(map(tuple, prompts)), key=lambda ids: (len(ids), ids))
    shared = _common_prefix(distinct)
    width = len(distinct[-1])
    layer_type = type("Layer", (InPlaceLayer,), {"capacity": width + max_new_tokens})
    full = Cache(layer_class_to_replicate=layer_type)
    start = Cache(layer_class_to_replicate=type("Layer", (InPlaceLayer,), {"capacity": max(shared, 1)}))
    if shared:
        model(
            input_ids=torch.tensor([distinct[0][:shared]], device=device),
            past_key_values=start,
            use_cache=True,
            logits_to_keep=1,
        )
    rest = width - shared
    ids = torch.full((len(distinct), rest), pad_id, device=device)
    mask = torch.zeros((len(distinct), width), dtype=torch.long, device=device)
    mask[:, :shared] = 1
    for i, prompt in enumerate(distinct):
        ids[i, width - len(prompt) :] = torch.tensor(prompt[shared:], device=device)
        mask[i, shared + width - len(prompt) :] = 1
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits, parts = [], []
    step = max(1, MAX_PREFILL_TOKENS // rest)
    for low in range(0, len(distinct), step):
        rows = slice(low, min(low + step, len(distinct)))
        part = Cache(layer_class_to_replicate=type("Layer", (InPlaceLayer,), {"capacity": width}))
        if shared:
            for i, layer in enumerate(start.layers):
                part.update(*(t.expand(rows.stop - low, -1, -1, -1) for t in (layer.keys, layer.values)), i)
        out = model(
            input_ids=ids[rows],
            attention_mask=mask[rows],
            position_ids=positions[rows, shared:],
            past_key_values=part,
            use_cache=True,
            logits_to_keep=1,
        )
        logits.append(out.logits[:, -1])
        parts.append(part)
    where = {prompt: i for i, prompt in enumerate(distinct)}
    expand = torch.tensor([where[tuple(prompt)] for prompt in prompts], device=device)
    for i in range(len(parts[0].layers)):
        keys = torch.cat([part.layers[i].keys for part in parts])[expand]
        full.update(keys, torch.cat([part.layers[i].values for part in parts])[expand], i)
    return torch.cat(logits)[expand], full, mask[expand], positions[expand, -1]


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many ids all prompts begin with; the last id of the shortest is never counted (its logits are needed)."""
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)
