"""Statistics of agreement as functions of weights, (r, n) -> (r,), so that they can be bootstrapped (statistics.over_weights).
Undefined values are NaN."""

from collections.abc import Callable, Sequence
from typing import Any

Statistic = Callable[[Any], Any]


def kappa(one: Sequence[int], other: Sequence[int]) -> Statistic:
    """Cohen's kappa (1960) of two classifications of the same items."""
    import numpy as np

    a, b = np.asarray(one), np.asarray(other)

    def of(weights: Any) -> Any:
        total = weights.sum(1)
        same = (weights * (a == b)).sum(1) / total
        chance = sum((weights * (a == c)).sum(1) * (weights * (b == c)).sum(1) for c in {*one, *other}) / total**2
        with np.errstate(all="ignore"):
            return np.where(chance < 1, (same - chance) / (1 - chance), np.nan)

    return of


def auc(scores: Sequence[float], good: Sequence[bool]) -> Statistic:
    """The probability that a good item has a higher score than a bad one, ties counting half."""
    import numpy as np

    order = np.argsort(scores, kind="stable")
    kept = np.asarray(scores, dtype=float)[order]
    starts = np.flatnonzero(np.r_[True, kept[1:] != kept[:-1]])  # of runs of equal scores
    label = np.asarray(good, dtype=float)[order]

    def of(weights: Any) -> Any:
        sorted_weights = weights[:, order]
        up, down = (np.add.reduceat(sorted_weights * part, starts, axis=1) for part in (label, 1 - label))
        below = np.cumsum(down, axis=1) - down / 2
        with np.errstate(all="ignore"):
            return (up * below).sum(1) / (up.sum(1) * down.sum(1))

    return of


def correlation(one: Sequence[float], other: Sequence[float]) -> Statistic:
    """Spearman's rank correlation; the ranks are those among all items."""
    import numpy as np
    from scipy.stats import rankdata

    x, y = (rankdata(values) for values in (one, other))

    def of(weights: Any) -> Any:
        total = weights.sum(1)
        dx, dy = (values - ((weights * values).sum(1) / total)[:, None] for values in (x, y))
        spread = np.sqrt((weights * dx**2).sum(1) * (weights * dy**2).sum(1))
        with np.errstate(all="ignore"):
            return np.where(spread > 1e-9, (weights * dx * dy).sum(1) / spread, np.nan)

    return of
