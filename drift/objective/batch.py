"""What an objective sees: a batch of replies with their log-probabilities, and totals of its optimiser step."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Good against other replies of the same example, P of them: places in the batch `chosen`, `rejected` `(P,)`, and `share`
    `(P,)`: one over the number of the example's pairs, so that every example weighs the same."""

    chosen: Tensor
    rejected: Tensor
    share: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """R replies, the good ones first. `logps`: summed log-probability of a reply under the policy, with gradient; `reference`:
    under the reference; both `(R,)` in nats. `lengths`: tokens `(R,)`. `good`, `example`: per reply, whether it is a good
    one, and which of the batch's examples it belongs to."""

    logps: Tensor
    reference: Tensor
    lengths: Tensor
    good: tuple[bool, ...]
    example: tuple[int, ...]

    @cached_property
    def ratios(self) -> Tensor:
        """log(policy / reference) of each reply, `(R,)` in nats."""
        return self.logps - self.reference

    @cached_property
    def pairs(self) -> Pairs:
        """Of the examples that have both sides."""
        sides: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for place, (number, good) in enumerate(zip(self.example, self.good, strict=True)):
            sides[number][not good].append(place)
        found = [(*pair, 1 / (len(good) * len(bad))) for good, bad in sides.values() for pair in product(good, bad)]
        chosen, rejected, share = ([pair[i] for pair in found] for i in range(3))
        places = [torch.tensor(side, dtype=torch.long, device=self.logps.device) for side in (chosen, rejected)]
        return Pairs(chosen=places[0], rejected=places[1], share=self.logps.new_tensor(share))

    def side(self, values: Tensor, good: bool) -> Tensor:
        """The values `(R,)` of the good replies, or of the others."""
        num_good = sum(self.good)  # they come first
        return values[:num_good] if good else values[num_good:]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Of one optimiser step, over all its batches: examples, good and other replies, and their tokens. `kl`: mean log-ratio
    (nats, at least 0) of replies to other examples' prompts, where an objective asks for it (`mismatched`)."""

    num_examples: int
    num_good: int
    num_bad: int
    good_tokens: int
    bad_tokens: int
    kl: float | None
