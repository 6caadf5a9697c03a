"""The numbers of `drift signal`, from the gradients of replies: pure functions of arrays.

An example's gradient is u = sum of weight * s(reply) (weights.py, gradients.py). D is the length of a score.

Replies drawn below temperature 1 have a mean gradient that is not 0, whoever liked them: the mean gradient of a token of the fresh
replies, times the tokens of a reply, is subtracted everywhere. A direction is always estimated on one half of the prompts and
applied to examples of other prompts, so that no reply is compared with itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any  # np.ndarray


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """K fresh replies to each of P prompts. `vectors` `(P, K, D)`: their gradients. `lengths` `(P, K)` in tokens. `good` `(P, K)`:
    1 for a good reply, 0 for a bad one; None: the truth is not known."""

    vectors: Array
    lengths: Array
    good: Array | None

    def per_token(self, rows: Array) -> Array:
        """`(D,)` mean gradient of a token of the replies to some prompts, given as a mask `(P,)`."""
        return self.vectors[rows].sum(axis=(0, 1), dtype=float) / self.lengths[rows].sum()

    @property
    def shorter(self) -> Array:
        """`(P, K)`: 1 for a reply with fewer tokens than the median of its prompt, 0 for one with more, NaN for the others."""
        median = np.median(self.lengths, axis=1, keepdims=True)
        return np.where(self.lengths < median, 1.0, np.where(self.lengths > median, 0.0, np.nan))


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The N examples of a method. `vectors` `(N, D)`: their gradients. `lengths` `(N,)`: the weighted sum of their replies' tokens.
    `records`: what each was made from. `prompts` `(N,)`: the index of the prompt among those of `Fresh`, or -1."""

    vectors: Array
    lengths: Array
    records: Sequence[str]
    prompts: Array


@dataclass(frozen=True, kw_only=True)
class Half:
    """What is estimated on some of the prompts. `inside` `(P,)`: which. `outer` `(D,)`: the mean gradient of a token on the others.
    `shorter`, `good` `(D,)`: unit directions, or None if no prompt tells the two kinds of replies apart. `contrast`: the
    good-over-bad gradient of the other prompts along `good`, or None."""

    inside: Array
    outer: Array
    shorter: Array | None
    good: Array | None
    contrast: float | None


def contrast(vectors: Array, labels: Array) -> Array | None:
    """`(D,)` mean gradient of the replies with label 1 minus that of those with label 0, prompt by prompt: `(P, K, D)`, `(P, K)`. A
    prompt with n1 and n0 of them has the weight n1 * n0 / (n1 + n0), the inverse of its variance. None: no prompt has both."""
    total, weight = np.zeros(vectors.shape[2]), 0.0
    for gradients, labelled in zip(vectors, labels, strict=True):
        one, zero = gradients[labelled == 1], gradients[labelled == 0]
        if len(one) and len(zero):
            own = len(one) * len(zero) / (len(one) + len(zero))
            total += own * (one.mean(axis=0) - zero.mean(axis=0))
            weight += own
    return total / weight if weight else None


def halves(fresh: Fresh, num_splits: int) -> list[tuple[Half, Half]]:
    """Random splits of the prompts into two halves, each half with what is estimated on it. The same for every method."""
    rng, count = np.random.default_rng(0), len(fresh.lengths)
    made = []
    for _ in range(num_splits):
        first = np.zeros(count, dtype=bool)
        first[rng.permutation(count)[: count // 2]] = True
        made.append((half(fresh, first), half(fresh, ~first)))
    return made


def half(fresh: Fresh, inside: Array) -> Half:
    own, outer = (fresh.per_token(rows) for rows in (inside, ~inside))

    def direction(rows: Array, labels: Array, base: Array) -> Array | None:
        found = contrast(fresh.vectors[rows] - fresh.lengths[rows][..., None] * base, labels[rows])
        return found if found is not None and np.linalg.norm(found) else None

    shorter = unit(direction(inside, fresh.shorter, own))
    if fresh.good is None:
        return Half(inside=inside, outer=outer, shorter=shorter, good=None, contrast=None)
    good, there = unit(direction(inside, fresh.good, own)), direction(~inside, fresh.good, outer)
    along = float(there @ good) if good is not None and there is not None else None
    return Half(inside=inside, outer=outer, shorter=shorter, good=good, contrast=along)


def unit(vector: Array | None) -> Array | None:
    return None if vector is None else vector / np.linalg.norm(vector)


def over_splits(values: Sequence[tuple[float | None, float | None]]) -> tuple[float | None, float | None]:
    """The mean over splits, and the standard deviation, of the mean of a split's two halves; None where there are too few."""
    means = [sum(known) / len(known) for pair in values if (known := [value for value in pair if value is not None])]
    return (float(np.mean(means)) if means else None), (float(np.std(means, ddof=1)) if len(means) > 1 else None)


def contrast_of(splits: Sequence[tuple[Half, Half]]) -> tuple[float | None, float | None]:
    """The good-over-bad gradient along its own direction on the other half of the prompts, and its deviation over splits."""
    return over_splits([(one.contrast, other.contrast) for one, other in splits])


def along(examples: Examples, splits: Sequence[tuple[Half, Half]]) -> dict[str, float | None]:
    """`signal`: the mean gradient of examples of other prompts along the utility gradient; `shorter`: its cosine with the direction
    of shorter replies; each with `_sd`, the deviation over splits."""
    signal, shorter = [], []
    for split in splits:
        means = [outside_mean(examples, one) for one in split]
        signal.append([None if m is None or h.good is None else float(m @ h.good) for m, h in zip(means, split, strict=True)])
        shorter.append([
            None if m is None or h.shorter is None else float(m @ h.shorter / np.linalg.norm(m))
            for m, h in zip(means, split, strict=True)
        ])  # fmt: skip
    (a, a_sd), (b, b_sd) = over_splits(signal), over_splits(shorter)  # type: ignore[arg-type]
    return {"signal": a, "signal_sd": a_sd, "shorter": b, "shorter_sd": b_sd}


def outside_mean(examples: Examples, one: Half) -> Array | None:
    """`(D,)` mean gradient of the examples whose prompt is not in a half; None if there is none, or if it is zero."""
    outside = (examples.prompts < 0) | ~one.inside[examples.prompts]
    if not outside.any():
        return None
    mean = examples.vectors[outside].mean(axis=0) - examples.lengths[outside].mean() * one.outer
    return mean if np.linalg.norm(mean) else None


def moments(vectors: Array, records: Sequence[str]) -> dict[str, float | None]:
    """Of N gradients `(N, D)`. `noise`: their root mean square distance from their mean, sqrt(sum |u - mean|^2 / (N - 1)).
    `mean_norm`: the norm of the mean. `chance_norm`: what it would be on average if the gradients of different records were
    unrelated, sqrt(sum over records |sum of the record's u|^2) / N. `agreement`: the first over the second. `cosine`: the mean
    cosine of two examples of different records. `mean_noise`: the root mean square error of the mean, with the examples of
    a record together. None: too few examples or records."""
    count = len(vectors)
    mean = vectors.mean(axis=0)
    places = [np.flatnonzero(np.asarray(records) == name) for name in dict.fromkeys(records)]
    sums = np.stack([vectors[place].sum(axis=0) for place in places])
    sizes = np.array([len(place) for place in places])
    chance = float(np.sqrt(np.square(sums).sum())) / count
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    within = sum(float(np.square(units[place].sum(axis=0)).sum()) for place in places)
    pairs = count**2 - int(np.square(sizes).sum())
    errors = float(np.square(sums - sizes[:, None] * mean).sum())
    return {
        "noise": math.sqrt(float(np.square(vectors - mean).sum()) / (count - 1)) if count > 1 else None,
        "mean_norm": float(np.linalg.norm(mean)),
        "chance_norm": chance,
        "agreement": float(np.linalg.norm(mean)) / chance if chance else None,
        "cosine": (float(np.square(units.sum(axis=0)).sum()) - within) / pairs if pairs else None,
        "mean_noise": math.sqrt(errors * len(places) / (len(places) - 1)) / count if len(places) > 1 else None,
    }
