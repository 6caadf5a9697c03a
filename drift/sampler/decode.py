"""The decoding loop: a group of prompts in, sampled token ids out.

Against `generate` of transformers: the noise is given (one uniform per row and position, inverse CDF), so a reply does not
depend on its neighbours; the beginning that all prompts share (a system message) and a prompt's several samples are
computed once; finished rows leave the batch; keys and values are written in place instead of being copied at every token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "one_token_by_groups"
UNUSUAL = ("softcap", "s_aux", "position_bias", "cache")  # arguments of models whose attention is more than a softmax

BLOCK = 64  # probabilities that are summed before the double-precision running sum
NUCLEUS = 512  # most likely tokens that top_p looks at first
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


def attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **rest: Any
) -> tuple[Any, None]:
    """For one new token on a CPU, plain matrix products by group of heads `(B, H, 1, D)`: there torch's kernel takes several times
    longer on long prompts. Everything else goes to it."""
    plain = query.shape[2] == 1 and query.device.type == "cpu" and not any(rest.get(name) is not None for name in UNUSUAL)
    if not plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)  # type: ignore[return-value]
    grouped = query.reshape(len(query), key.shape[1], -1, query.shape[3])  # (B, K, G, D)
    scores = (grouped @ key.mT).mul_(query.shape[3] ** -0.5 if scaling is None else scaling)  # (B, K, G, T)
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask[:, :, :, : key.shape[2]], float("-inf"))
    weights = torch.softmax(scores, dim=3, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    return (weights @ value).reshape(len(query), 1, -1, query.shape[3]), None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


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
    target = uniforms.to(torch.float64)[:, None] * edges[:, -1:]
    block = torch.searchsorted(edges, target, right=True).clamp(max=sums.shape[1] - 1)  # (B, 1)
    inside = blocks[torch.arange(len(weights), device=weights.device), block.squeeze(1)].double().cumsum(dim=1)
    inside += edges.gather(1, block) - sums.gather(1, block)
    within = torch.searchsorted(inside, target, right=True).clamp(max=BLOCK - 1)
    return (block * BLOCK + within).squeeze(1).clamp(max=count - 1)


def _prefill(model: Any, prompts: list[list[int]], max_new_tokens: int, pad_id: int) -> tuple[Any, Any, Any, Any]:
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
