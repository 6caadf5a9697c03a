"""How strong the preference signal of a step is: gradients of its pairs one by one, without the NLL term.

The paper's Lemma 1 (arXiv 2510.02341) bounds the mean of their norms from below. What moves the policy is the norm of their
mean: n pairs whose gradients have nothing in common keep about 1 / sqrt(n) of the former. That comparison is ours.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor


def measure(parameters: Sequence[Tensor], losses: Iterable[Tensor], backward: Callable[[Tensor], Any]) -> tuple[list[float], float]:
    """(the norm of every pair's gradient, the norm of their mean). `losses`: a scalar a pair, asked for one at a time. Takes no
    memory beyond one gradient; the parameters are without one afterwards."""
    squares: list[Tensor] = []
    norms: list[float] = []
    with ExitStack() as hooks:
        for parameter in parameters:  # a leaf's hook sees the whole gradient of one backward pass, before it is added up
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
