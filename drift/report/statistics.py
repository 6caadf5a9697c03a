"""Intervals and tests, as every table uses them (DESIGN rule 10).

One seed: BCa bootstrap (Efron 1987) over prompts, p by flipping the signs of differences at random. Several seeds: t interval and
t test over per-seed means. A comparison is *paired*: the difference on the same prompts, samples and evaluation noise comes first,
the interval second. Where several are shown together, their p are Holm's (1979): a verdict holds for all of them at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

RESAMPLES = 9999


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its 95 % interval; `low` and `high` are None where the data can't give one. `over`: what varied."""

    mean: float
    low: float | None
    high: float | None
    over: str

    @property
    def known(self) -> bool:
        """All of the values were numbers."""
        return math.isfinite(self.mean)

    @property
    def separable(self) -> bool:
        """The interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """`p`: two-sided, of no difference; None where the data can't give one. `effect`: mean over standard deviation of what varied
    (Cohen's d_z), None where nothing varied."""

    p: float | None
    effect: float | None

    @property
    def separable(self) -> bool:
        """The test says so too: of two equal seeds the interval has no width, and proves nothing."""
        return super().separable and self.p is not None and self.p < 0.05


def over_items(values: Sequence[float]) -> Interval:
    """Mean of per-prompt values (or differences), BCa bootstrap over the prompts."""
    import warnings

    import numpy as np
    from scipy.stats import bootstrap

    data, over = np.asarray(values, dtype=float), f"{len(values)} prompts"
    if len(data) < 2 or not np.isfinite(data).all():
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
    if len(data) < 2 or not np.isfinite(data).all():
        return Interval(mean=float(data.mean()), low=None, high=None, over=over)
    half = float(t.ppf(0.975, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data)))
    return Interval(mean=float(data.mean()), low=float(data.mean()) - half, high=float(data.mean()) + half, over=over)


def paired(after: Sequence[dict[str, float]], before: Sequence[dict[str, float]]) -> Difference:
    """Difference after - before of per-prompt values, one dict per seed; only prompts present in both count."""
    differences = [[a[key] - b[key] for key in a if key in b] for a, b in zip(after, before, strict=True)]
    if len(differences) == 1:
        return difference(differences[0], over_items(differences[0]), sign_flips)
    means = [sum(row) / len(row) for row in differences]
    return difference(means, over_seeds(means), t_test)


def difference(values: Sequence[float], interval: Interval, test: Callable[[Sequence[float]], float]) -> Difference:
    """The interval with its p and its effect size."""
    import numpy as np

    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if len(values) < 2 or not interval.known:
        return Difference(**asdict(interval), p=None, effect=None)
    if spread < 1e-12:  # no standard deviation to go by; the signs say what they can
        return Difference(**asdict(interval), p=sign_flips(values) if abs(interval.mean) > 1e-12 else 1.0, effect=None)
    return Difference(**asdict(interval), p=test(values), effect=interval.mean / spread)


def t_test(values: Sequence[float]) -> float:
    from scipy.stats import ttest_1samp

    found: Any = ttest_1samp(values, 0.0)
    return float(found.pvalue)


def sign_flips(values: Sequence[float]) -> float:
    """How often the mean of differences with random signs is as far from 0 (the test of Fisher's randomisation)."""
    import numpy as np
    from scipy.stats import permutation_test

    found = permutation_test(
        (np.asarray(values, dtype=float),), np.mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction: the p of each when all are looked at."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def level(values: Sequence[dict[str, float]]) -> Interval:
    """A metric's mean and interval, from per-prompt values, one dict per seed. Seeds that are one evaluation (a start model whose
    prompts and noise do not vary) count as one."""
    if all(row == values[0] for row in values):
        return over_items(list(values[0].values()))
    return over_seeds([sum(row.values()) / len(row) for row in values])
