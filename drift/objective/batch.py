"""The input of an objective: a batch of replies with their log-probabilities, and the totals of its optimiser step."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """P pairs of a good and a bad reply to the same example: their indices in the batch, `chosen` and `rejected` `(P,)`; `share`
    `(P,)`: one over the number of the example's pairs, so that all examples have the same weight."""

    chosen: Tensor
    rejected: Tensor
    share: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """R replies, the good ones first. `logps`: the summed log-probability of each reply under the policy, with gradient;
    `reference`: under the reference; both `(R,)` in nats. `lengths`: tokens `(R,)`. `good`: whether each reply is a good one;
    `example`: the index of its example in the batch. `tokens`: the log-probability of each of the N reply tokens under the policy,
    with gradient, reply after reply; `hindsight`: under the reference that has read the user's feedback, where the examples have
    such a prompt; both `(N,)` in nats."""

    logps: Tensor
    reference: Tensor
    lengths: Tensor
    good: tuple[bool, ...]
    example: tuple[int, ...]
    tokens: Tensor
    hindsight: Tensor | None

    @cached_property
    def ratios(self) -> Tensor:
        """log(policy / reference) of each reply, `(R,)` in nats."""
        return self.logps - self.reference

    @cached_property
    def pairs(self) -> Pairs:
        """The pairs of the examples that have good and bad replies."""
        sides: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for reply, (example, good) in enumerate(zip(self.example, self.good, strict=True)):
            sides[example][not good].append(reply)
        pairs = [(*pair, 1 / (len(good) * len(bad))) for good, bad in sides.values() for pair in product(good, bad)]
        chosen, rejected, share = ([pair[i] for pair in pairs] for i in range(3))
        indices = [torch.tensor(side, dtype=torch.long, device=self.logps.device) for side in (chosen, rejected)]
        return Pairs(chosen=indices[0], rejected=indices[1], share=self.logps.new_tensor(share))

    def side(self, values: Tensor, good: bool) -> Tensor:
        """The values of the good replies, or of the bad ones, out of `(R,)` values."""
        num_good = sum(self.good)  # they come first
        return values[:num_good] if good else values[num_good:]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Totals of one optimiser step over all its batches: examples, good and bad replies, and their tokens. `kl`: the mean log-ratio
    (nats, at least 0) of replies to other examples' prompts, if an objective needs it (`mismatched`)."""

    num_examples: int
    num_good: int
    num_bad: int
    good_tokens: int
    bad_tokens: int
    kl: float | None
