"""The strength of a step's preference signal: the gradients of its pairs one by one, without the NLL term.

The paper's Lemma 1 (arXiv 2510.02341) bounds the mean of their norms from below. What moves the policy is the norm of their
mean: if the gradients of n pairs are unrelated, it is about 1 / sqrt(n) of the mean norm. That comparison is ours.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from drift.engine.ranks import world
from drift.train.parallel import add_up, everyones, local


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
    if world() > 1:
        norms = [norm for part in everyones(norms) for norm in part]
    total = [gradient.float().square().sum() for p in parameters if (gradient := _added(p)) is not None]
    for parameter in parameters:
        parameter.grad = None
    return norms, float(torch.stack(total).sum().sqrt()) / len(norms)


def _added(parameter: Tensor) -> Tensor | None:
    """The sum of the ranks' gradients; None on a single rank without one."""
    if world() == 1:
        return parameter.grad
    return add_up(parameter.grad if parameter.grad is not None else torch.zeros_like(parameter))


def measure_divided(
    parameters: Sequence[Tensor], losses: Iterable[Tensor], backward: Callable[[Tensor], Any]
) -> tuple[list[float], float]:
    """As `measure`, where the parameters are divided among the ranks: each computes all losses, and holds a part of the gradients.
    It needs memory for two of them."""
    squares: list[float] = []
    sums: list[Tensor | None] = [None] * len(parameters)
    for loss in losses:
        backward(loss)
        parts = [None if p.grad is None else local(p.grad).float() for p in parameters]
        squares.append(sum(float(part.square().sum()) for part in parts if part is not None))
        sums = [b if a is None else a if b is None else a + b for a, b in zip(sums, parts, strict=True)]
        for parameter in parameters:
            parameter.grad = None
    squares.append(sum(float(total.square().sum()) for total in sums if total is not None))
    *norms, mean = [sum(parts) ** 0.5 for parts in zip(*everyones(squares), strict=True)]
    return norms, mean / len(norms)
