"""Intervals, as every table uses them (DESIGN rule 10).

One seed: BCa bootstrap (Efron 1987) over prompts. Several seeds: t interval over per-seed means. A comparison is *paired*: the
difference on the same prompts, samples and evaluation noise comes first, the interval second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 9999


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its 95 % interval; `low` and `high` are None where the data can't give one. `over`: what varied."""

    mean: float
    low: float | None
    high: float | None
    over: str

    @property
    def separable(self) -> bool:
        """The interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def over_items(values: Sequence[float]) -> Interval:
    """Mean of per-prompt values (or differences), BCa bootstrap over the prompts."""
    import warnings

    import numpy as np
    from scipy.stats import bootstrap

    data, over = np.asarray(values, dtype=float), f"{len(values)} prompts"
    if len(data) < 2:
        return Interval(mean=float(data.mean()), low=None, high=None, over=over)
    if np.ptp(data) < 1e-12:  # all the same, up to rounding
        return Interval(mean=float(data[0]), low=float(data[0]), high=float(data[0]), over=over)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bootstrap((data,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    return Interval(mean=float(data.mean()), low=float(found.low), high=float(found.high), over=over)


def over_seeds(means: Sequence[float]) -> Interval:
    """Mean of one value per seed, t interval with n - 1 degrees of freedom."""
    import numpy as np
    from scipy.stats import t

    data, over = np.asarray(means, dtype=float), f"{len(means)} seeds"
    if len(data) < 2:
        return Interval(mean=float(data.mean()), low=None, high=None, over=over)
    half = float(t.ppf(0.975, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data)))
    return Interval(mean=float(data.mean()), low=float(data.mean()) - half, high=float(data.mean()) + half, over=over)


def paired(after: Sequence[dict[str, float]], before: Sequence[dict[str, float]]) -> Interval:
    """Difference after - before of per-prompt values, one dict per seed; only prompts present in both count."""
    differences = [[a[key] - b[key] for key in a if key in b] for a, b in zip(after, before, strict=True)]
    if len(differences) == 1:
        return over_items(differences[0])
    return over_seeds([sum(row) / len(row) for row in differences])


def level(values: Sequence[dict[str, float]]) -> Interval:
    """A metric's mean and interval, from per-prompt values, one dict per seed."""
    if len(values) == 1:
        return over_items(list(values[0].values()))
    return over_seeds([sum(row.values()) / len(row) for row in values])
