"""Log-probabilities of tokens from hidden states, in chunks: no [tokens, vocabulary] tensor ever exists, forward or backward.

With a frozen projection (adapters) the direction of the gradient, d log p / d hidden, is computed in the forward pass, which has
the chunk's probabilities anyway, so backward costs one multiplication. With a trained one, backward computes the logits again.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": 2**28}  # logits in a chunk: 32 MB of float32, 1 GB
ROWS = {"cpu": 4096, "cuda": 2**31}  # of a trained projection whose gradient is added up at once: on a CPU, what its cache holds


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """log p of each target under softmax(hidden @ weight.T), and the entropy of that distribution (no gradient), both `(N,)` in
    nats and in float32 or better. `hidden` `(N, H)`, `weight` `(V, H)`, `targets` `(N,)`."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):  # from here on the code chooses every number format, forward and backward
        return TokenLogprobs.apply(hidden, weight, targets)  # type: ignore[no-any-return]


class TokenLogprobs(torch.autograd.Function):
    """The computation of `token_logprobs` with its gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        head, chunks = weight.to(hidden.dtype), Chunks(hidden, weight)
        logp, entropy = (hidden.new_empty(len(hidden), dtype=chunks.wide) for _ in range(2))
        frozen = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        direction = torch.empty_like(hidden) if frozen else None
        for chunk in chunks:
            logps = torch.log_softmax(chunks.logits(chunk, head), dim=1, out=chunks.second(chunk))  # (n, V)
            target = targets[chunk, None]
            logp[chunk] = logps.gather(1, target).squeeze(1)
            probabilities = torch.exp(logps, out=chunks.first(chunk))
            entropy[chunk] = -torch.einsum("nv,nv->n", probabilities, logps)
            if direction is not None:
                slope = probabilities.neg_().scatter_add_(1, target, torch.ones_like(probabilities[:, :1]))
                torch.mm(chunks.narrow(chunk, slope), head, out=direction[chunk])
        ctx.save_for_backward(hidden, weight, targets, *([] if direction is None else [direction]))
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        hidden, weight, targets, *direction = ctx.saved_tensors
        if direction:
            return (direction[0] * grad[:, None]).to(hidden.dtype), None, None
        head, chunks = weight.to(hidden.dtype), Chunks(hidden, weight)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight)
        rows = ROWS[weight.device.type]
        for chunk in chunks:
            slope = torch.softmax(chunks.logits(chunk, head), dim=1, out=chunks.second(chunk)).mul_(-grad[chunk, None])
            narrow = chunks.narrow(chunk, slope.scatter_add_(1, targets[chunk, None], grad[chunk, None]))
            if grad_hidden is not None:
                torch.mm(narrow, head, out=grad_hidden[chunk])
            if weight.dtype == hidden.dtype:
                grad_weight.addmm_(narrow.t(), hidden[chunk])
                continue
            for low in range(0, len(weight), rows):
                grad_weight[low : low + rows] += torch.mm(narrow.t()[low : low + rows], hidden[chunk])
        return grad_hidden, grad_weight, None


class Chunks:
    """Slices of the N tokens, and the buffers that all of them share: new ones for each slice would fragment the heap."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self.hidden, self.vocabulary = hidden, len(weight)
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        elements = max(CHUNK_ELEMENTS[hidden.device.type], self.vocabulary)
        self.size = elements // self.vocabulary
        self._first, self._second = (hidden.new_empty(elements, dtype=self.wide) for _ in range(2))
        self._narrow = self._first if hidden.dtype == self.wide else hidden.new_empty(elements)

    def __iter__(self) -> Iterator[slice]:
        return (slice(low, min(low + self.size, len(self.hidden))) for low in range(0, len(self.hidden), self.size))

    def logits(self, chunk: slice, weight: Tensor) -> Tensor:
        """`(n, V)` in the wide format, rounded to that of the hidden states; in the first buffer. (Softmax with a `dtype` would
        widen them in memory of its own.)"""
        found = torch.mm(self.hidden[chunk], weight.t(), out=self._view(self._narrow, chunk))
        return found if found.dtype == self.wide else self.first(chunk).copy_(found)

    def first(self, chunk: slice) -> Tensor:
        return self._view(self._first, chunk)

    def second(self, chunk: slice) -> Tensor:
        return self._view(self._second, chunk)

    def narrow(self, chunk: slice, wide: Tensor) -> Tensor:
        """In the format of the hidden states."""
        return wide if self.hidden.dtype == self.wide else self._view(self._narrow, chunk).copy_(wide)

    def _view(self, buffer: Tensor, chunk: slice) -> Tensor:
        count = chunk.stop - chunk.start
        return buffer[: count * self.vocabulary].view(count, self.vocabulary)
