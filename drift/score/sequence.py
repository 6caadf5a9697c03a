"""What is scored: a prompt and a reply as token ids; and how a model computes it."""

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
    """How log-probabilities are computed, the same for the reference, training and evaluations. `lightning`: its name for the
    precision; `dtype`: torch's name for that of the weights. `layout`: of the sequences of a batch, whose tokens are about
    `tokens_per_batch`. `max_tokens`: the longest prompt and reply."""

    lightning: Any
    dtype: str
    layout: Layout
    tokens_per_batch: int
    max_tokens: int
