"""What a sampler may offer besides `drift.parts.Sampler`."""

# pyright: reportReturnType=false
# (contracts have a docstring in the place of a body)
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from drift.randomness import Noise
from drift.records import Prompt, Reply

Trained = Literal["adapter", "full", "nf4"]  # "nf4": an adapter on quantised weights


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A reply with the sampler's own log-probabilities of its tokens, in nats, at temperature 1 and over the whole vocabulary.
    `tokens`: None if only the text is known; `nats`: None if there are none to be had."""

    reply: Reply
    tokens: Sequence[int] | None
    nats: Sequence[float] | None


@runtime_checkable
class Scoring(Protocol):
    """A sampler that knows the log-probabilities of what it draws. The check of `drift/engine/same_policy.py` compares them with
    training's; of other samplers it compares greedy replies. `caveats`: what it can't promise, in sentences for the report."""

    caveats: ClassVar[Sequence[str]]

    def draw_scored(self, policy: Any, prompts: Sequence[Prompt], noise: Sequence[Noise]) -> list[Scored | None]:
        """Opens the policy and draws a reply to each prompt, as `open` does, and keeps nothing of it. None: as there."""


@runtime_checkable
class Selective(Protocol):
    """A sampler that can't load every policy."""

    def check_policy(self, trained: Trained) -> None:
        """Called before anything is loaded, if policies of this kind will be sampled from. Raises `UserError`."""


@runtime_checkable
class Concurrent(Protocol):
    """A sampler that draws a whole group at once, so that small groups leave it idle: an evaluation with longer replies takes its
    `group_size` as it is."""

    draws_at_once: ClassVar[Literal[True]]


@runtime_checkable
class Lasting(Protocol):
    """A sampler whose engine is not started by the run, and may have been given another model since the run began."""

    outlasts_runs: ClassVar[Literal[True]]
