"""How much an objective moves each reply of an example at the start: its derivative with respect to the reply's log-probability.

Before the first update policy and reference agree, and the gradient of any loss of log-probabilities is a weighted sum of the
replies' gradients (gradients.py). DPO: +beta / 2 for the chosen reply, -beta / 2 for the rejected one; several good ones share it.
Weights are scaled so that the heavier side of an example has 1, on average over the examples: whatever the objective, a pair is
s(chosen) - s(rejected), and a liked reply s(liked)."""

from collections.abc import Mapping, Sequence
from typing import Any

from drift.errors import UserError
from drift.parts import Objective
from drift.score.plan import TokenisedExample


def measured(objectives: Mapping[str, Objective]) -> dict[str, Objective]:
    """The objectives that compare replies; if none does, all. A sum's other losses (the NLL anchor beside DPO) are left out, as in
    `train.signal_every`."""
    return {name: one for name, one in objectives.items() if one.paired} or dict(objectives)


def reply_weights(objectives: Mapping[str, Objective], examples: Sequence[TokenisedExample]) -> list[list[float]]:
    """The weight of every reply of every example: above 0 for replies that the policy learns from, below 0 for those that it
    learns against."""
    import torch

    from drift.objective.batch import Batch, Step

    if told := [name for name, one in measured(objectives).items() if one.hindsight]:
        raise UserError(f"objective={told[0]} weighs every token of a reply by itself, and drift signal measures whole replies.")
    replies = [(i, k) for i, one in enumerate(examples) for k in range(len(one.good))]
    replies.sort(key=lambda place: not examples[place[0]].good[place[1]])  # the good ones first, as an objective expects
    good = tuple(examples[i].good[k] for i, k in replies)
    lengths = [len(examples[i].sequences[k].reply) for i, k in replies]
    logps = torch.zeros(len(replies), dtype=torch.float64, requires_grad=True)
    owners = tuple(i for i, _ in replies)
    columns = {"reference": torch.zeros_like(logps), "lengths": torch.tensor(lengths), "good": good, "example": owners}
    batch = Batch(logps=logps, tokens=torch.zeros(sum(lengths)), hindsight=None, **columns)
    tokens = {side: sum(n for n, is_good in zip(lengths, good, strict=True) if is_good == side) for side in (True, False)}
    step = Step(
        num_examples=len(examples), num_good=sum(good), num_bad=len(good) - sum(good), good_tokens=tokens[True],
        bad_tokens=tokens[False], kl=0.0,
    )  # fmt: skip
    losses = [one.weight * one.loss(batch, step)[0] for one in measured(objectives).values()]
    (slopes,) = torch.autograd.grad(torch.stack(losses).sum(), logps)
    weights = [[0.0] * len(one.good) for one in examples]
    for (i, k), slope in zip(replies, slopes.tolist(), strict=True):
        weights[i][k] = -slope
    return scaled(weights, ",".join(measured(objectives)))


def scaled(weights: Sequence[Sequence[float]], name: str) -> list[list[float]]:
    """Weights whose heavier side is 1, on average over the examples."""
    heavier = [max(sum(w for w in row if w > 0), -sum(w for w in row if w < 0)) for row in weights]
    mean = sum(heavier) / len(heavier)
    if not mean:
        raise UserError(f"objective=[{name}] has no gradient at the start from the examples of this method.")
    return [[w / mean for w in row] for row in weights]


def sides(weights: Sequence[Sequence[float]], values: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """The weighted mean of a value over the replies that are learnt from, and over those that are learnt against (None: there are
    none)."""
    means: list[Any] = []
    for sign in (1, -1):
        pairs = [(abs(w), v) for ws, vs in zip(weights, values, strict=True) for w, v in zip(ws, vs, strict=True) if w * sign > 0]
        total = sum(w for w, _ in pairs)
        means.append(sum(w * v for w, v in pairs) / total if total else None)
    return means[0], means[1]
