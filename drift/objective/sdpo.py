"""SDPO (arXiv 2603.12273), in its form for logged replies: the policy moves towards a teacher, the same model after it has read
what the user said about the reply.

Of every token that was said, the advantage log q(y_t | x, o, y_<t) - log p(y_t | x, y_<t) weighs the gradient of log p and has none
itself: a policy gradient of the reverse KL divergence from the teacher q, estimated on the token that was said and not over the
vocabulary. It is the mean over the tokens of a reply, and then over replies. No clipping, and no importance weights for replies
that another policy gave, as in the authors' offline code.

Where we differ: there the teacher has the weights of the current step; here it is the reference (by default the policy that the
iteration starts from), whose numbers are computed once. p is the current policy in both. With a teacher that stands still the
gradient is that of half the squared advantage, so it vanishes where the policy says what the teacher would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from drift.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from drift.objective.batch import Batch, Step


def sdpo(logps: Tensor, hindsight: Tensor, lengths: Tensor, ignored: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each reply `(R,)` the means over its tokens of -advantage * log p (the loss), of the advantage, and of its absolute value.
    `logps`, `hindsight` `(N,)` in nats: of the tokens under policy and teacher, reply after reply; `lengths` `(R,)`. The first
    `ignored` tokens of a reply don't count; a reply without further tokens has 0."""
    import torch

    first = lengths.cumsum(0) - lengths  # of each reply: the index of its first token
    position = torch.arange(len(logps), device=logps.device) - first.repeat_interleave(lengths)
    advantage = (hindsight - logps.detach()) * (position >= ignored)
    counted = (lengths - ignored).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True) / counted

    return -mean(advantage * logps), mean(advantage), mean(advantage.abs())


@dataclass(frozen=True, kw_only=True)
class Sdpo:
    """`ignored_tokens`: tokens at the beginning of each reply that are not trained on."""

    weight: float
    ignored_tokens: int

    paired: ClassVar[bool] = False
    mismatched: ClassVar[bool] = False
    hindsight: ClassVar[bool] = True

    def check(self) -> None:
        if not (self.weight > 0 and self.ignored_tokens >= 0):
            raise UserError("objective.sdpo: expected weight above 0 and ignored_tokens of at least 0.")

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.hindsight is not None
        losses, advantages, sizes = sdpo(batch.tokens, batch.hindsight, batch.lengths, self.ignored_tokens)
        share = step.num_examples / (step.num_good + step.num_bad)
        return losses.sum() * share, {"advantage": advantages.sum() * share, "advantage_size": sizes.sum() * share}
