"""Log-probabilities of tokens from hidden states, in chunks: no [tokens, vocabulary] tensor ever exists, forward or backward.

With a frozen projection (adapters) the gradient's direction, d log p / d hidden, is made in the forward pass, where the chunk's
probabilities are at hand, so backward costs one multiplication. With a trained one the chunk's logits are computed again.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": 2**28}  # of one chunk of logits: 32 MB of float32, 1 GB


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log p of each target under softmax(hidden @ weight.T), and the entropy of that distribution (no gradient), both `(N,)` in
    nats and in float32 or better. `hidden` `(N, H)`, `weight` `(V, H)`, `targets` `(N,)`."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):  # from here on every format is chosen by hand, forward and backward alike
        return TokenLogprobs.apply(hidden, weight, targets)  # type: ignore[no-any-return]


class TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        used, chunks = weight.to(hidden.dtype), Chunks(hidden, weight)
        logp, entropy = (hidden.new_empty(len(hidden), dtype=chunks.wide) for _ in range(2))
        frozen = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        direction = torch.empty_like(hidden) if frozen else None
        for rows in chunks:
            every = torch.log_softmax(chunks.logits(rows, used), dim=1, dtype=chunks.wide, out=chunks.second(rows))  # (n, V)
            picked = targets[rows, None]
            logp[rows] = every.gather(1, picked).squeeze(1)
            probabilities = torch.exp(every, out=chunks.first(rows))
            entropy[rows] = -torch.einsum("nv,nv->n", probabilities, every)
            if direction is not None:
                slope = probabilities.neg_().scatter_add_(1, picked, torch.ones_like(probabilities[:, :1]))
                torch.mm(chunks.narrow(rows, slope), used, out=direction[rows])
        ctx.save_for_backward(hidden, weight, targets, *([] if direction is None else [direction]))
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        hidden, weight, targets, *direction = ctx.saved_tensors
        if direction:
            return (direction[0] * grad[:, None]).to(hidden.dtype), None, None
        used, chunks = weight.to(hidden.dtype), Chunks(hidden, weight)
        for_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for_weight = torch.zeros_like(weight)
        product = None if weight.dtype == hidden.dtype else torch.empty_like(used)
        for rows in chunks:
            slope = torch.softmax(chunks.logits(rows, used), dim=1, dtype=chunks.wide, out=chunks.second(rows)).mul_(
                -grad[rows, None]
            )
            narrow = chunks.narrow(rows, slope.scatter_add_(1, targets[rows, None], grad[rows, None]))
            if for_hidden is not None:
                torch.mm(narrow, used, out=for_hidden[rows])
            if product is None:
                for_weight.addmm_(narrow.t(), hidden[rows])
            else:
                for_weight += torch.mm(narrow.t(), hidden[rows], out=product)
        return for_hidden, for_weight, None


class Chunks:
    """Slices of the rows, and the buffers that all of them use: made anew for each, they would tear the heap to pieces."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self.hidden, self.vocabulary = hidden, len(weight)
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        elements = max(CHUNK_ELEMENTS[hidden.device.type], self.vocabulary)
        self.size = elements // self.vocabulary
        self._first, self._second = (hidden.new_empty(elements, dtype=self.wide) for _ in range(2))
        self._narrow = self._first if hidden.dtype == self.wide else hidden.new_empty(elements)

    def __iter__(self) -> Iterator[slice]:
        return (slice(low, min(low + self.size, len(self.hidden))) for low in range(0, len(self.hidden), self.size))

    def logits(self, rows: slice, weight: Tensor) -> Tensor:
        """`(n, V)` in the format of the hidden states."""
        return torch.mm(self.hidden[rows], weight.t(), out=self._view(self._narrow, rows))

    def first(self, rows: slice) -> Tensor:
        return self._view(self._first, rows)

    def second(self, rows: slice) -> Tensor:
        return self._view(self._second, rows)

    def narrow(self, rows: slice, wide: Tensor) -> Tensor:
        """In the format of the hidden states."""
        return wide if self.hidden.dtype == self.wide else self._view(self._narrow, rows).copy_(wide)

    def _view(self, buffer: Tensor, rows: slice) -> Tensor:
        count = rows.stop - rows.start
        return buffer[: count * self.vocabulary].view(count, self.vocabulary)
