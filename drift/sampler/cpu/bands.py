"""Attention of one new token for many replies, without padding: what decoding spends its time on where prompts differ in length.

A prompt's keys and values lie there once, for all of its replies, in a band of prompts of similar length; the replies' own tokens
are all equally many, so they lie side by side. The model's code is untouched: an attention function of our own, to which the cache
hands itself in the place of keys. For the models that `model/family.py` lists; others take the plain cache of `prefill.py`.
"""

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

from drift.model.family import objection
from drift.model.policy import without_adapter
from drift.score.attention import refuse_other_arithmetic

NAME = "banded_replies"


def supports(model: Any, longest: int) -> bool:
    """Whether bands are known to give the model's numbers for prompts and replies of up to `longest` tokens together."""
    return objection(model.config, "banded_decoding", longest=longest) is None


def saves(prompts: Sequence[Sequence[int]]) -> bool:
    """Whether padding and repeated prompts would at least double what is kept: else the plain cache is faster by a tenth."""
    needed = sum(map(len, set(map(tuple, prompts))))
    return len(prompts) * max(map(len, prompts)) > 2 * needed


def taking(model: Any, kept: Cache) -> dict[str, Any]:
    """The arguments that give a model its cache, under the name that its version of transformers has for it."""
    return {_cache_name(type(without_adapter(model))): kept, "use_cache": True}


@cache
def _cache_name(kind: type) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"  # type: ignore[attr-defined]


class Band:
    """Prompts of similar length. `keys`, `values`: per layer `(P, K, T, D)`; `bias` `(P, 1, 1, T)`: -inf where a prompt is padded;
    `replies`: per prompt, the numbers of its unfinished replies in the batch."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], bias: Tensor, replies: list[list[int]]) -> None:
        self.keys, self.values, self.bias = keys, values, bias
        self.seat(replies)

    def seat(self, replies: list[list[int]]) -> None:
        """A rectangle of P prompts by n replies: a prompt with fewer has its first one twice, with the same result."""
        self.replies, self.most = replies, max(map(len, replies))
        rectangle = [[*of, *of[:1] * (self.most - len(of))] for of in replies]
        self.index = torch.tensor(rectangle, device=self.bias.device).flatten()  # (P n,)

    def keep(self, renumbered: dict[int, int]) -> bool:
        """Lets finished replies go (`renumbered`: the others', old -> new), and prompts that have none left; False: empty."""
        replies = [[renumbered[reply] for reply in of if reply in renumbered] for of in self.replies]
        stay = [i for i, of in enumerate(replies) if of]
        count = len(stay)
        holes, movers = [i for i in range(count) if not replies[i]], [i for i in stay if i >= count]
        for hole, mover in zip(holes, movers, strict=True):
            replies[hole] = replies[mover]
            for tensor in (*self.keys, *self.values, self.bias):
                tensor[hole] = tensor[mover]
        self.keys, self.values = ([tensor[:count] for tensor in tensors] for tensors in (self.keys, self.values))
        self.bias = self.bias[:count]
        if count:
            self.seat(replies[:count])
        return count > 0

    def gather(self, tensor: Tensor) -> Tensor:
        """`(B, K, G, x)` of all replies to `(P, K, n G, x)` of the band's."""
        _, heads, group, size = tensor.shape
        picked = tensor.index_select(0, self.index).view(-1, self.most, heads, group, size)
        return picked.transpose(1, 2).reshape(-1, heads, self.most * group, size)

    def scatter(self, into: Tensor, tensor: Tensor) -> None:
        """The reverse."""
        _, heads, group, size = into.shape
        apart = tensor.view(-1, heads, self.most, group, size).transpose(1, 2).reshape(-1, heads, group, size)
        into.index_copy_(0, self.index, apart)


class ReplyLayer(DynamicLayer):
    """One layer's keys and values of the replies' own tokens `(B, K, t, D)`, and the bands that stand before them."""

    def __init__(self, number: int, bands: list[Band], num_replies: int, capacity: int) -> None:
        super().__init__()
        self.number, self.bands, self.length, self.is_initialized = number, bands, 0, True
        like = bands[0].keys[number]
        shape = (num_replies, like.shape[1], capacity, like.shape[3])
        self.own_keys, self.own_values = like.new_empty(shape), like.new_empty(shape)

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
        self.own_keys[:, :, self.length] = key_states[:, :, 0]
        self.own_values[:, :, self.length] = value_states[:, :, 0]
        self.length += 1
        return self, self

    def get_seq_length(self) -> int:
        return self.length

    @property
    def longest(self) -> int:
        """Tokens of the longest row so far."""
        return max(band.bias.shape[3] for band in self.bands) + self.length

    def shrink(self, num_rows: int, holes: Tensor, movers: Tensor) -> None:
        """As the plain layer's."""
        for buffer in (self.own_keys, self.own_values):
            buffer[holes, :, : self.length] = buffer[movers, :, : self.length]
        self.own_keys, self.own_values = self.own_keys[:num_rows], self.own_values[:num_rows]


class Replies:
    """The state of decoding: `step` gives the next logits, `keep` lets finished replies go."""

    def __init__(self, model: Any, bands: list[Band], positions: Tensor, capacity: int) -> None:
        self.model, self.bands, self.positions = model, bands, positions
        layers: list[Any] = [ReplyLayer(i, bands, len(positions), capacity) for i in range(len(bands[0].keys))]
        self.cache = Cache(layers=layers)

    def step(self, tokens: Tensor) -> Tensor:
        """Next-token logits `(B, V)` after these `(B,)` tokens."""
        self.positions = self.positions + 1
        whole = without_adapter(self.model)
        before = whole.config._attn_implementation
        whole.set_attn_implementation(NAME)
        try:
            out = self.model(input_ids=tokens[:, None], position_ids=self.positions[:, None], **taking(self.model, self.cache))
        finally:
            whole.set_attn_implementation(before)
        return out.logits[:, -1]

    def keep(self, keep: Tensor, holes: Tensor, movers: Tensor) -> None:
        """The replies `keep` go on; those at the end, `movers`, stand in for finished ones, `holes`."""
        renumbered = {old: new for new, old in enumerate(keep.tolist())}
        self.bands[:] = [band for band in self.bands if band.keep(renumbered)]
        for layer in self.cache.layers:
            layer.shrink(len(keep), holes, movers)  # type: ignore[attr-defined]
        self.positions = self.positions[keep]


def attend(module: Any, query: Tensor, layer: Any, _: Any, mask: Any, *, scaling: float, **rest: Any) -> tuple[Tensor, None]:
    """The attention function that transformers calls: `(B, H, 1, D)` queries and a ReplyLayer to `(B, 1, H, D)`."""
    refuse_other_arithmetic(rest, layer.longest)
    num, heads, _, size = query.shape
    keys, values = layer.own_keys[:, :, : layer.length], layer.own_values[:, :, : layer.length]
    grouped = query.view(num, keys.shape[1], -1, size) * scaling  # (B, K, G, D)
    scores = grouped @ keys.mT  # (B, K, G, t)
    mixed, weights = torch.empty_like(grouped), torch.empty_like(scores)
    wide = torch.promote_types(query.dtype, torch.float32)
    for band in layer.bands:
        before = band.gather(grouped) @ band.keys[layer.number].mT + band.bias
        whole = torch.softmax(torch.cat([before, band.gather(scores)], dim=3), dim=3, dtype=wide).to(query.dtype)
        border = before.shape[3]
        band.scatter(mixed, whole[..., :border] @ band.values[layer.number])
        band.scatter(weights, whole[..., border:])
    return (mixed + weights @ values).view(num, 1, heads, size), None


AttentionInterface.register(NAME, attend)


def seats(prompts: Sequence[tuple[int, ...]], distinct: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Per distinct prompt, the numbers of its replies."""
    numbers: dict[tuple[int, ...], list[int]] = {prompt: [] for prompt in distinct}
    for number, prompt in enumerate(prompts):
        numbers[prompt].append(number)
    return list(numbers.values())
