"""Attention of one new token for many replies, without padding. Decoding spends most of its time there if prompts differ in length.

The keys and values of a prompt are stored once for all of its replies, in a band of prompts of similar length. All replies have the
same number of tokens of their own, which stand side by side. The model's code is unchanged: it gets an attention function of our
own, which receives the cache itself in place of the keys. Models that `model/family.py` does not list use the padded cache of
`prefill.py`.
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
from drift.score.attention import refuse_unknown_arguments

NAME = "banded_replies"


def supports(model: Any, longest: int) -> bool:
    """Whether banded decoding is known to be exact for this model, with up to `longest` tokens of prompt and reply."""
    return objection(model.config, "banded_decoding", longest=longest) is None


def saves(prompts: Sequence[Sequence[int]]) -> bool:
    """Whether padding and repeated prompts would at least double the cache; if not, the padded cache is faster by a tenth."""
    needed = sum(map(len, set(map(tuple, prompts))))
    return len(prompts) * max(map(len, prompts)) > 2 * needed


def cache_arguments(model: Any, kv_cache: Cache) -> dict[str, Any]:
    """The arguments that pass a cache to a model, under the name that its version of transformers uses."""
    return {_cache_name(type(without_adapter(model))): kv_cache, "use_cache": True}


@cache
def _cache_name(kind: type) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"  # type: ignore[attr-defined]


class Band:
    """P prompts of similar length. `keys`, `values`: per layer `(P, K, T, D)`; `bias` `(P, 1, 1, T)`: -inf on the padding;
    `replies`: per prompt, the numbers of its unfinished replies in the batch."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], bias: Tensor, replies: list[list[int]]) -> None:
        self.keys, self.values, self.bias = keys, values, bias
        self.set_replies(replies)

    def set_replies(self, replies: list[list[int]]) -> None:
        """Arranges the replies as a rectangle of P prompts by n replies. Shorter lists are padded by repeating their first reply,
        which recomputes the same value."""
        self.replies, self.most = replies, max(map(len, replies))
        rectangle = [[*numbers, *numbers[:1] * (self.most - len(numbers))] for numbers in replies]
        self.index = torch.tensor(rectangle, device=self.bias.device).flatten()  # (P n,)

    def keep(self, renumbered: dict[int, int]) -> bool:
        """Removes finished replies, and prompts that have none left. `renumbered`: old -> new number of the unfinished ones. False:
        the band is empty."""
        replies = [[renumbered[reply] for reply in numbers if reply in renumbered] for numbers in self.replies]
        stay = [i for i, numbers in enumerate(replies) if numbers]
        count = len(stay)
        holes, movers = [i for i in range(count) if not replies[i]], [i for i in stay if i >= count]
        for hole, mover in zip(holes, movers, strict=True):
            replies[hole] = replies[mover]
            for tensor in (*self.keys, *self.values, self.bias):
                tensor[hole] = tensor[mover]
        self.keys, self.values = ([tensor[:count] for tensor in tensors] for tensors in (self.keys, self.values))
        self.bias = self.bias[:count]
        if count:
            self.set_replies(replies[:count])
        return count > 0

    def gather(self, tensor: Tensor) -> Tensor:
        """`(B, K, G, x)` of all replies to `(P, K, n G, x)` of the band's replies."""
        _, heads, group, size = tensor.shape
        picked = tensor.index_select(0, self.index).view(-1, self.most, heads, group, size)
        return picked.transpose(1, 2).reshape(-1, heads, self.most * group, size)

    def scatter(self, into: Tensor, tensor: Tensor) -> None:
        """The reverse of `gather`."""
        _, heads, group, size = into.shape
        by_reply = tensor.view(-1, heads, self.most, group, size).transpose(1, 2).reshape(-1, heads, group, size)
        into.index_copy_(0, self.index, by_reply)


class ReplyLayer(DynamicLayer):
    """One layer's keys and values of the replies' own tokens `(B, K, t, D)`, and the bands with their prompts."""

    def __init__(self, number: int, bands: list[Band], num_replies: int, capacity: int) -> None:
        super().__init__()
        self.number, self.bands, self.length, self.is_initialized = number, bands, 0, True
        keys = bands[0].keys[number]
        shape = (num_replies, keys.shape[1], capacity, keys.shape[3])
        self.reply_keys, self.reply_values = keys.new_empty(shape), keys.new_empty(shape)

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
        self.reply_keys[:, :, self.length] = key_states[:, :, 0]
        self.reply_values[:, :, self.length] = value_states[:, :, 0]
        self.length += 1
        return self, self

    def get_seq_length(self) -> int:
        return self.length

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and reply so far."""
        return max(band.bias.shape[3] for band in self.bands) + self.length

    def shrink(self, num_rows: int, holes: Tensor, movers: Tensor) -> None:
        """As in `InPlaceLayer`."""
        for buffer in (self.reply_keys, self.reply_values):
            buffer[holes, :, : self.length] = buffer[movers, :, : self.length]
        self.reply_keys, self.reply_values = self.reply_keys[:num_rows], self.reply_values[:num_rows]


class BandedReplies:
    """The state of decoding: `step` computes the next logits, `keep` removes finished replies."""

    def __init__(self, model: Any, bands: list[Band], positions: Tensor, capacity: int) -> None:
        self.model, self.bands, self.positions = model, bands, positions
        layers: list[Any] = [ReplyLayer(i, bands, len(positions), capacity) for i in range(len(bands[0].keys))]
        self.cache = Cache(layers=layers)

    def step(self, tokens: Tensor) -> Tensor:
        """Next-token logits `(B, V)` after these `(B,)` tokens."""
        self.positions = self.positions + 1
        plain = without_adapter(self.model)
        before = plain.config._attn_implementation
        plain.set_attn_implementation(NAME)
        arguments = cache_arguments(self.model, self.cache)
        try:
            out = self.model(input_ids=tokens[:, None], position_ids=self.positions[:, None], **arguments)
        finally:
            plain.set_attn_implementation(before)
        return out.logits[:, -1]

    def keep(self, keep: Tensor, holes: Tensor, movers: Tensor) -> None:
        """Keeps the replies `keep`; those of them at the end, `movers`, move to the places `holes` of finished ones."""
        renumbered = {old: new for new, old in enumerate(keep.tolist())}
        self.bands[:] = [band for band in self.bands if band.keep(renumbered)]
        for layer in self.cache.layers:
            layer.shrink(len(keep), holes, movers)  # type: ignore[attr-defined]
        self.positions = self.positions[keep]


def attend(module: Any, query: Tensor, layer: Any, _: Any, mask: Any, *, scaling: float, **rest: Any) -> tuple[Tensor, None]:
    """The attention function that transformers calls: `(B, H, 1, D)` queries and a ReplyLayer to `(B, 1, H, D)`."""
    refuse_unknown_arguments(rest, layer.longest)
    num, heads, _, size = query.shape
    keys, values = layer.reply_keys[:, :, : layer.length], layer.reply_values[:, :, : layer.length]
    grouped = query.view(num, keys.shape[1], -1, size) * scaling  # (B, K, G, D)
    scores = grouped @ keys.mT  # (B, K, G, t)
    from_prompt, weights = torch.empty_like(grouped), torch.empty_like(scores)
    wide = torch.promote_types(query.dtype, torch.float32)
    for band in layer.bands:
        prompt_scores = band.gather(grouped) @ band.keys[layer.number].mT + band.bias
        all_scores = torch.cat([prompt_scores, band.gather(scores)], dim=3)
        probabilities = torch.softmax(all_scores, dim=3, dtype=wide).to(query.dtype)
        border = prompt_scores.shape[3]
        band.scatter(from_prompt, probabilities[..., :border] @ band.values[layer.number])
        band.scatter(weights, probabilities[..., border:])
    return (from_prompt + weights @ values).view(num, 1, heads, size), None


AttentionInterface.register(NAME, attend)


def replies_by_prompt(prompts: Sequence[tuple[int, ...]], distinct: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """The numbers of the replies to each distinct prompt."""
    numbers: dict[tuple[int, ...], list[int]] = {prompt: [] for prompt in distinct}
    for number, prompt in enumerate(prompts):
        numbers[prompt].append(number)
    return list(numbers.values())
