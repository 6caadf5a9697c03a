"""The strength of a step's preference signal: the gradients of its pairs one by one, without the NLL term.

The paper's Lemma 1 (arXiv 2510.02341) bounds the mean of their norms from below. What moves the policy is the norm of their
mean: if the gradients of n pairs are unrelated, it is about 1 / sqrt(n) of the mean norm. That comparison is ours.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor


def measure(parameters: Sequence[Tensor], losses: Iterable[Tensor], backward: Callable[[Tensor], Any]) -> tuple[list[float], float]:
    """(the norm of every pair's gradient, the norm of their mean). `losses`: a scalar per pair, computed one at a time. It needs
    memory for one gradient only, and clears it at the end."""
    squares: list[Tensor] = []
    norms: list[float] = []
    with ExitStack() as hooks:
        for parameter in parameters:  # a leaf's hook gets the full gradient of one backward pass, before it is accumulated
            hook = parameter.register_hook(lambda grad: squares.append(grad.detach().float().square().sum()))
            hooks.callback(hook.remove)
        for loss in losses:
            squares.clear()
            backward(loss)
            norms.append(float(torch.stack(squares).sum().sqrt()))
    total = [p.grad.float().square().sum() for p in parameters if p.grad is not None]
    for parameter in parameters:
        parameter.grad = None
    return norms, float(torch.stack(total).sum().sqrt()) / len(norms)
