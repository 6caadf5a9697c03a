"""Intervals and tests, as every table uses them.

One seed: of a level, BCa bootstrap (Efron 1987) over prompts; of a difference, interval and p of the sign-flip test. Several seeds:
t interval and t test over per-seed means. So the interval of a difference leaves 0 out exactly where its p is below .05. Prompts
of one conversation stay together, in bootstrap and flips. A comparison is *paired*: the difference on the same prompts, samples and
evaluation noise comes first, the interval second. Where several are shown together, their p are Holm's (1979): a verdict holds for
all of them at once. Of fewer than FEWEST conversations nothing can be said.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

RESAMPLES = 9999
FEWEST = 6  # conversations: the signs of five say the same by chance in 2 of 32 cases, so p can't be below .05
NO_SPREAD = 1e-12  # all the same, up to rounding
# What is resampled or flipped at most: of more conversations, equal numbers of them together (i, i + 2000, ...), which changes a
# large evaluation's interval by some 2 % and makes its time and memory independent of its size.
MOST_BLOCKS = 2000
CELLS = 4 * 10**6  # numbers of a bootstrap in memory at once


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its 95 % interval; `low` and `high` are None where the data can't give one. `over`: what varied."""

    mean: float
    low: float | None
    high: float | None
    over: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference with the interval and p of one test; `low`, `high`, `over` as of an `Interval`. `p`: two-sided, of no
    difference; None where the data can't give one. `effect`: mean over standard deviation of what varied (Cohen's d_z), None where
    nothing varied. `few`: it rests on so few prompts that nothing can be said, whatever the seeds."""

    mean: float
    low: float | None
    high: float | None
    over: str
    p: float | None
    effect: float | None
    few: bool

    @property
    def significant(self) -> bool:
        """The interval leaves 0 out and p is below .05. Both: of seeds that are equal the interval may have no width, and proves
        nothing."""
        if self.few or self.p is None or self.low is None or self.high is None:
            return False
        return (self.low > 0 or self.high < 0) and self.p < 0.05


def over_items(values: Sequence[float], conversations: Sequence[str] | None = None) -> Interval:
    """Mean of per-prompt values, BCa bootstrap over the prompts, or over the `conversations` that they come from (one a value)."""
    import warnings

    import numpy as np
    from scipy.stats import bootstrap

    sums, counts, over = together(values, conversations)
    mean = float(np.mean(np.asarray(values, dtype=float)))
    if len(sums) < FEWEST or not math.isfinite(mean):
        return Interval(mean=mean, low=None, high=None, over=over)
    if np.ptp(np.asarray(values, dtype=float)) < NO_SPREAD:
        return Interval(mean=mean, low=mean, high=mean, over=over)

    def ratio(sums: Any, counts: Any, axis: int) -> Any:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bootstrap(
            (sums, counts), ratio, paired=True, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0),
            batch=max(1, CELLS // len(sums)),
        ).confidence_interval  # fmt: skip
    return Interval(mean=mean, low=float(found.low), high=float(found.high), over=over)


def over_seeds(means: Sequence[float]) -> Interval:
    """Mean of one value per seed, t interval with n - 1 degrees of freedom."""
    import numpy as np
    from scipy.stats import t

    data, over = np.asarray(means, dtype=float), f"{len(means)} seeds"
    if len(data) < 2 or not np.isfinite(data).all():
        return Interval(mean=float(data.mean()), low=None, high=None, over=over)
    half = float(t.ppf(0.975, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data)))
    return Interval(mean=float(data.mean()), low=float(data.mean()) - half, high=float(data.mean()) + half, over=over)


def paired(
    after: Sequence[dict[str, float]], before: Sequence[dict[str, float]], conversation: Mapping[str, str] | None = None
) -> Difference:
    """Difference after - before of per-prompt values, one dict per seed; only prompts present in both count. `conversation`: of a
    prompt, where several may share one."""
    import numpy as np

    groups = conversation or {}
    seeds = [{key: a[key] - b[key] for key in a if key in b} for a, b in zip(after, before, strict=True)]
    few = min(_count(row, groups) for row in seeds) < FEWEST
    if len(seeds) == 1:
        values = list(seeds[0].values())
        interval, p = by_signs(values, [groups.get(key, key) for key in seeds[0]])
    else:
        values = [sum(row.values()) / len(row) for row in seeds]
        interval, p = over_seeds(values), t_test(values) if np.isfinite(values).all() else None
        if np.ptp(values) < NO_SPREAD:  # no standard deviation to go by; the signs say what they can
            p = by_signs(values, None)[1]
        if few:
            prompts = together(list(seeds[0].values()), [groups.get(key, key) for key in seeds[0]])[2]
            interval = replace(interval, over=f"{interval.over} on {prompts}")
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    effect = interval.mean / spread if spread >= NO_SPREAD else None
    return Difference(mean=interval.mean, low=interval.low, high=interval.high, over=interval.over, p=p, effect=effect, few=few)


def t_test(values: Sequence[float]) -> float:
    import warnings

    from scipy.stats import ttest_1samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values without spread, which the caller sees to
        found: Any = ttest_1samp(values, 0.0)
    return float(found.pvalue)


def by_signs(values: Sequence[float], conversations: Sequence[str] | None) -> tuple[Interval, float | None]:
    """Mean, interval and p of differences by flipping their signs at random (Fisher's randomisation test), those of a conversation
    together. With d taken off them, a flip has as high a mean as they have exactly where the flipped ones had a mean below
    d. So the quantiles of random subsets' means are the interval (Hartigan 1969), and their share beyond 0 is p."""
    import numpy as np

    sums, counts, over = together(values, conversations)
    mean = float(np.mean(np.asarray(values, dtype=float)))
    if len(sums) < 2 or not math.isfinite(mean):
        return Interval(mean=mean, low=None, high=None, over=over), None
    means = subset_means(sums, counts)
    total = len(means) + 1  # the empty subset counts on either side
    p = 2 * (1 + min(int((means <= 0).sum()), int((means >= 0).sum()))) / total
    outside = math.ceil(0.025 * total - 1 - 1e-9)  # of the means, on either side, if p is to be .05
    low, high = (float(means[outside - 1]), float(means[-outside])) if outside > 0 else (None, None)
    return Interval(mean=mean, low=low, high=high, over=over), min(1.0, p)


def subset_means(sums: Any, counts: Any) -> Any:
    """Means of the non-empty subsets of (n,) sums of (n,) counts, sorted: of all 2^n - 1, or of so many random ones."""
    import numpy as np

    if 2 ** min(len(sums), 60) <= RESAMPLES + 1:
        chosen = (np.arange(1, 2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1  # (2^n - 1, n)
        found = (chosen @ sums) / (chosen @ counts)
    else:
        rng, parts = np.random.default_rng(0), []
        for rows in np.array_split(np.arange(RESAMPLES), max(1, RESAMPLES * len(sums) // 10**7)):  # a large evaluation in parts
            chosen = rng.integers(0, 2, (len(rows), len(sums)), dtype=np.int8)
            size = chosen @ counts
            parts.append((chosen @ sums)[size > 0] / size[size > 0])
        found = np.concatenate(parts)
    found[np.abs(found) < NO_SPREAD * max(1.0, float(np.abs(sums / counts).max()))] = 0.0
    return np.sort(found)


def together(values: Sequence[float], conversations: Sequence[str] | None) -> tuple[Any, Any, str]:
    """(sums of the values of each conversation, or of each block of them, how many they are, words for both)."""
    import numpy as np

    data = np.asarray(values, dtype=float)
    names = list(range(len(data))) if conversations is None else list(conversations)
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    place = [order[name] % MOST_BLOCKS for name in names]
    size = min(len(order), MOST_BLOCKS)
    sums, counts = np.bincount(place, data, size), np.bincount(place, minlength=size).astype(float)
    over = f"{len(data)} prompt{'s' if len(data) != 1 else ''}"
    return sums, counts, over if len(order) == len(data) else f"{over} of {len(order)} conversations"


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction: the p of each when all are looked at."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def level(values: Sequence[dict[str, float]], conversation: Mapping[str, str] | None = None) -> Interval:
    """A metric's mean and interval, from per-prompt values, one dict per seed. Seeds that are one evaluation (a start model whose
    prompts and noise do not vary) count as one. `conversation` as in `paired`."""
    if all(row == values[0] for row in values):
        return over_items(list(values[0].values()), [(conversation or {}).get(key, key) for key in values[0]])
    found = over_seeds([sum(row.values()) / len(row) for row in values])
    return replace(found, low=None, high=None) if min(_count(row, conversation or {}) for row in values) < FEWEST else found


def _count(row: Mapping[str, float], conversation: Mapping[str, str]) -> int:
    """How many conversations its prompts come from."""
    return len({conversation.get(key, key) for key in row})
