"""A prompt and a reply as token ids, and how their log-probability is computed."""

from dataclasses import dataclass
from typing import Any, Literal

Layout = Literal["shared", "padded"]


@dataclass(frozen=True, kw_only=True)
class TokenSequence:
    """Token ids of one prompt and one reply to it."""

    prompt: list[int]
    reply: list[int]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How log-probabilities are computed, the same for the reference, training and evaluations. `lightning`: the precision by its
    name in Lightning; `dtype`: that of the weights by its name in torch. `layout`: how the sequences of a batch are laid out, about
    `tokens_per_batch` tokens together. `max_tokens`: the most tokens of a prompt and its reply."""

    lightning: Any
    dtype: str
    layout: Layout
    tokens_per_batch: int
    max_tokens: int
