"""The numbers of `drift signal`, from the gradients of replies: pure functions of arrays.

An example's gradient is u = sum of weight * s(reply) (weights.py, gradients.py). D is the length of a gradient.

Replies drawn below temperature 1 have a mean gradient that is not 0, whoever liked them: the mean gradient of a token of the fresh
replies, times the tokens of a reply, is subtracted everywhere. A direction is always estimated on one half of the prompts and
applied to examples of other prompts, so that no reply is compared with itself."""

import math
from collections.abc import Mapping, Sequence
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
    `directions` `(D,)`: "good", good replies over bad ones; "shorter", shorter replies over longer ones; if a prompt has both."""

    inside: Array
    outer: Array
    directions: Mapping[str, Array]


Splits = Sequence[tuple[Half, Half]]


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


def halves(fresh: Fresh, num_splits: int) -> Splits:
    """Random splits of the prompts into two halves, each half with what is estimated on it. The same for every method."""
    rng, count = np.random.default_rng(0), len(fresh.lengths)
    made = []
    for _ in range(num_splits):
        first = np.zeros(count, dtype=bool)
        first[rng.permutation(count)[: count // 2]] = True
        made.append((half(fresh, first), half(fresh, ~first)))
    return made


def half(fresh: Fresh, inside: Array) -> Half:
    own = fresh.vectors[inside] - fresh.lengths[inside][..., None] * fresh.per_token(inside)
    labels = {"shorter": fresh.shorter} | ({} if fresh.good is None else {"good": fresh.good})
    found = {kind: contrast(own, each[inside]) for kind, each in labels.items()}
    directions = {kind: vector for kind, vector in found.items() if vector is not None}
    return Half(inside=inside, outer=fresh.per_token(~inside), directions=directions)


def length(splits: Splits, kind: str) -> float | None:
    """The length of a direction without its noise: the root of the mean inner product of what the two halves of a split say. None:
    they do not agree."""
    products = inner(splits, kind, kind)
    return math.sqrt(np.mean(products)) if products and np.mean(products) > 0 else None


def inner(splits: Splits, kind: str, other: str) -> list[float]:
    """For every split, the mean inner product of a direction from one half with a direction from the other half."""
    made = []
    for split in splits:
        pairs = [(one.directions, two.directions) for one, two in (split, split[::-1])]
        if all(kind in one and other in two for one, two in pairs):
            made.append(float(np.mean([one[kind] @ two[other] for one, two in pairs])))
    return made


def alignment(splits: Splits) -> float | None:
    """The cosine of "good" with "shorter", without the noise of either; beyond 1 by chance, if they are hardly told apart."""
    good, shorter, products = length(splits, "good"), length(splits, "shorter"), inner(splits, "good", "shorter")
    return float(np.mean(products)) / (good * shorter) if good and shorter else None


def along(examples: Examples, splits: Splits, kind: str) -> dict[str, float | None]:
    """The mean gradient along a direction, every example along those from other prompts, divided by the direction's length without
    noise: `part`. `error`: its standard error over records. `deviation`: its standard deviation over splits. `cosine`: of
    the mean gradient with the direction, as they are; noise in either pulls it to 0. None: there is no direction."""
    size, known = length(splits, kind), [split for split in splits if all(kind in one.directions for one in split)]
    if size is None or len(known) < 2:
        return dict.fromkeys(("part", "error", "deviation", "cosine"))
    values, cosines = [], []  # by split
    for split in known:
        each = np.zeros(len(examples.records))
        for one in split:
            direction, others = one.directions[kind], outside(examples, one)
            own = (examples.vectors @ direction - examples.lengths * float(one.outer @ direction)) / size  # (N,)
            each += np.where(others, own, 0.0)
            cosines.append(cosine_outside(examples, one, direction))
        values.append(each / sum(outside(examples, one) for one in split))
    means = np.mean(values, axis=0)
    return {
        "part": float(means.mean()),
        "error": error_of_mean(means[:, None], examples.records),
        "deviation": float(np.std(np.mean(values, axis=1), ddof=1)),
        "cosine": float(np.mean(there)) if (there := [cosine for cosine in cosines if cosine is not None]) else None,
    }


def outside(examples: Examples, one: Half) -> Array:
    """`(N,)`: which examples have a prompt that is not in a half."""
    return (examples.prompts < 0) | ~one.inside[examples.prompts]


def cosine_outside(examples: Examples, one: Half, direction: Array) -> float | None:
    """The cosine of a half's direction with the mean gradient of the examples outside it. None: there are none, or it is zero."""
    rows = outside(examples, one)
    if not rows.any():
        return None
    mean = examples.vectors[rows].mean(axis=0) - examples.lengths[rows].mean() * one.outer
    norms = np.linalg.norm(mean) * np.linalg.norm(direction)
    return float(mean @ direction / norms) if norms else None


def error_of_mean(vectors: Array, records: Sequence[str]) -> float | None:
    """The root mean square error of the mean of `(N, D)` vectors, with those of a record together. None: a single record."""
    places = by_record(records)
    if len(places) < 2:
        return None
    mean = vectors.mean(axis=0)
    errors = sum(float(np.square((vectors[place] - mean).sum(axis=0)).sum()) for place in places)
    return math.sqrt(errors * len(places) / (len(places) - 1)) / len(vectors)


def by_record(records: Sequence[str]) -> list[Array]:
    """The places of each record's examples."""
    names = np.asarray(records)
    return [np.flatnonzero(names == name) for name in dict.fromkeys(records)]


def moments(vectors: Array, records: Sequence[str]) -> dict[str, float | None]:
    """Of N gradients `(N, D)`. `noise`: their root mean square distance from their mean, sqrt(sum |u - mean|^2 / (N - 1)).
    `mean_norm`: the norm of the mean. `chance_norm`: what it would be on average if the gradients of different records were
    unrelated, sqrt(sum over records |sum of the record's u|^2) / N. `agreement`: the first over the second. `cosine`: the mean
    cosine of two examples of different records. `mean_noise`: see `error_of_mean`. None: too few examples or records."""
    count = len(vectors)
    mean = vectors.mean(axis=0)
    places = by_record(records)
    sums = np.stack([vectors[place].sum(axis=0) for place in places])
    sizes = np.array([len(place) for place in places])
    chance = float(np.sqrt(np.square(sums).sum())) / count
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    within = sum(float(np.square(units[place].sum(axis=0)).sum()) for place in places)
    pairs = count**2 - int(np.square(sizes).sum())
    return {
        "noise": math.sqrt(float(np.square(vectors - mean).sum()) / (count - 1)) if count > 1 else None,
        "mean_norm": float(np.linalg.norm(mean)),
        "chance_norm": chance,
        "agreement": float(np.linalg.norm(mean)) / chance if chance else None,
        "cosine": (float(np.square(units.sum(axis=0)).sum()) - within) / pairs if pairs else None,
        "mean_noise": error_of_mean(vectors, records),
    }
