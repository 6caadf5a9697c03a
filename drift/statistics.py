"""The intervals and tests of every table.

With one seed, a level has a BCa bootstrap interval (Efron 1987) over prompts, and a difference the interval and p of the sign-flip
test. With several seeds, both have a t interval over per-seed means, and a difference a t test. So the interval of a difference
excludes 0 exactly if its p is below .05. Prompts of one conversation stay together in bootstrap and flips. A comparison is
*paired*: the differences are taken first, on the same prompts, samples and evaluation noise. If several comparisons are shown
together, their p are corrected by Holm's method (1979), so that a verdict holds for all of them. Fewer than FEWEST conversations
allow no conclusion.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

RESAMPLES = 9999
FEWEST = 6  # conversations: with five, all signs are equal by chance in 2 of 32 cases, so p can't be below .05
NO_SPREAD = 1e-12  # a smaller spread is rounding
# At most this many blocks are resampled or flipped. More conversations are put into blocks of equal size (i, i + 2000, ...), which
# changes the interval of a large evaluation by some 2 % and makes its time and memory independent of its size.
MAX_BLOCKS = 2000
CELLS = 4 * 10**6  # numbers of a bootstrap that are in memory at once


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its 95 % interval; `low` and `high` are None if the data are too few, or all the same. `over`: what varied, in
    words."""

    mean: float
    low: float | None
    high: float | None
    over: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference with the interval and p of one test; `low`, `high`, `over`: as in `Interval`. `p`: two-sided; None if there
    are too few data. `effect`: the mean over the standard deviation (Cohen's d_z); None if nothing varied. `few`: too few prompts
    for any conclusion, whatever the number of seeds."""

    mean: float
    low: float | None
    high: float | None
    over: str
    p: float | None
    effect: float | None
    few: bool

    @property
    def significant(self) -> bool:
        """The interval excludes 0 and p is below .05. Both are needed: the one may be there without the other."""
        if self.few or self.p is None or self.low is None or self.high is None:
            return False
        return (self.low > 0 or self.high < 0) and self.p < 0.05


def over_items(values: Sequence[float], conversations: Sequence[str] | None = None) -> Interval:
    """The mean of per-prompt values with a BCa bootstrap interval over prompts, or over their `conversations` (one per value).
    There is none if no conversation differs from another: of six replies that all fail, a bootstrap would say "0 for certain"."""
    import warnings

    import numpy as np
    from scipy.stats import bootstrap

    sums, counts, over = by_conversation(values, conversations)
    mean = float(np.mean(np.asarray(values, dtype=float)))
    same = len(sums) and np.ptp(sums / counts) < NO_SPREAD  # all samples would have this mean, which says nothing of its certainty
    if len(sums) < FEWEST or not math.isfinite(mean) or same:
        return Interval(mean=mean, low=None, high=None, over=over)

    def ratio(sums: Any, counts: Any, axis: int) -> Any:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interval = bootstrap(
            (sums, counts), ratio, paired=True, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0),
            batch=max(1, CELLS // len(sums)),
        ).confidence_interval  # fmt: skip
    return Interval(mean=mean, low=float(interval.low), high=float(interval.high), over=over)


def over_weights(statistic: Callable[[Any], Any], conversations: Sequence[str]) -> Interval:
    """The same for any statistic of items that have weights: a function of (r, n) weights, how often each of the n items was drawn
    in each of r samples, to (r,) values. `conversations`: one per item."""
    import warnings

    import numpy as np
    from scipy.stats import bootstrap

    order = {name: i for i, name in enumerate(dict.fromkeys(conversations))}
    place = np.asarray([order[name] % MAX_BLOCKS for name in conversations])
    size = min(len(order), MAX_BLOCKS)
    value = float(statistic(np.ones((1, len(place))))[0])
    over = by_conversation([0.0] * len(place), conversations)[2]
    if len(order) < FEWEST or not math.isfinite(value):
        return Interval(mean=value, low=None, high=None, over=over)

    def drawn(blocks: Any, axis: int) -> Any:  # (…, m) numbers of blocks -> (…,) values
        rows = blocks.reshape(-1, blocks.shape[-1]).astype(int)
        counts = np.bincount((rows + size * np.arange(len(rows))[:, None]).ravel(), minlength=len(rows) * size)
        return statistic(counts.reshape(len(rows), size)[:, place].astype(float)).reshape(blocks.shape[:-1])

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        interval = bootstrap(
            (np.arange(size),), drawn, vectorized=True, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0),
            batch=max(1, CELLS // len(place)),
        ).confidence_interval  # fmt: skip
    ends = [float(interval.low), float(interval.high)]
    low, high = ends if all(map(math.isfinite, ends)) else (None, None)
    return Interval(mean=value, low=low, high=high, over=over)


def over_seeds(means: Sequence[float]) -> Interval:
    """The mean of one value per seed, with a t interval of n - 1 degrees of freedom. There is none if all seeds have the same
    value: it would say "for certain"."""
    import numpy as np
    from scipy.stats import t

    data, over = np.asarray(means, dtype=float), f"{len(means)} seeds"
    if len(data) < 2 or not np.isfinite(data).all() or np.ptp(data) < NO_SPREAD:
        return Interval(mean=float(data.mean()), low=None, high=None, over=over)
    half = float(t.ppf(0.975, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data)))
    return Interval(mean=float(data.mean()), low=float(data.mean()) - half, high=float(data.mean()) + half, over=over)


def paired(
    after: Sequence[dict[str, float]], before: Sequence[dict[str, float]], conversation: Mapping[str, str] | None = None
) -> Difference:
    """The difference after - before of per-prompt values, one dict per seed; only prompts in both count. `conversation`: prompt ->
    its conversation, if several prompts may share one."""
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
        if np.ptp(values) < NO_SPREAD:  # without a standard deviation, only the signs can be tested
            p = by_signs(values, None)[1]
        if few:
            prompts = by_conversation(list(seeds[0].values()), [groups.get(key, key) for key in seeds[0]])[2]
            interval = replace(interval, over=f"{interval.over} on {prompts}")
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    effect = interval.mean / spread if spread >= NO_SPREAD else None
    return Difference(mean=interval.mean, low=interval.low, high=interval.high, over=interval.over, p=p, effect=effect, few=few)


def t_test(values: Sequence[float]) -> float:
    """The two-sided p of a mean of 0."""
    import warnings

    from scipy.stats import ttest_1samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values without spread, which the caller handles
        result: Any = ttest_1samp(values, 0.0)
    return float(result.pvalue)


def by_signs(values: Sequence[float], conversations: Sequence[str] | None) -> tuple[Interval, float | None]:
    """Mean, interval and p of differences by random sign flips (Fisher's randomisation test), which flip a conversation as a whole.
    If d is subtracted from the differences, a flip reaches a mean as high as the original one exactly if the flipped differences
    had a mean below d. So the quantiles of the means of random subsets are the interval (Hartigan 1969), and their share beyond 0
    gives p."""
    import numpy as np

    sums, counts, over = by_conversation(values, conversations)
    mean = float(np.mean(np.asarray(values, dtype=float)))
    if len(sums) < 2 or not math.isfinite(mean):
        return Interval(mean=mean, low=None, high=None, over=over), None
    means = subset_means(sums, counts)
    total = len(means) + 1  # the empty subset counts on either side
    p = 2 * (1 + min(int((means <= 0).sum()), int((means >= 0).sum()))) / total
    outside = math.ceil(0.025 * total - 1 - 1e-9)  # the number of means on either side of the interval at p = .05
    low, high = (float(means[outside - 1]), float(means[-outside])) if outside > 0 else (None, None)
    return Interval(mean=mean, low=low, high=high, over=over), min(1.0, p)


def subset_means(sums: Any, counts: Any) -> Any:
    """The sorted means of the non-empty subsets of (n,) sums with (n,) counts: of all 2^n - 1, or of RESAMPLES random ones."""
    import numpy as np

    if 2 ** min(len(sums), 60) <= RESAMPLES + 1:
        chosen = (np.arange(1, 2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1  # (2^n - 1, n)
        means = (chosen @ sums) / (chosen @ counts)
    else:
        rng, parts = np.random.default_rng(0), []
        for part in np.array_split(np.arange(RESAMPLES), max(1, RESAMPLES * len(sums) // 10**7)):  # limits the memory
            chosen = rng.integers(0, 2, (len(part), len(sums)), dtype=np.int8)
            size = chosen @ counts
            parts.append((chosen @ sums)[size > 0] / size[size > 0])
        means = np.concatenate(parts)
    means[np.abs(means) < NO_SPREAD * max(1.0, float(np.abs(sums / counts).max()))] = 0.0
    return np.sort(means)


def by_conversation(values: Sequence[float], conversations: Sequence[str] | None) -> tuple[Any, Any, str]:
    """(the sum of the values of each conversation, or block of conversations; their number; words for both)."""
    import numpy as np

    data = np.asarray(values, dtype=float)
    names = list(range(len(data))) if conversations is None else list(conversations)
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    place = [order[name] % MAX_BLOCKS for name in names]
    size = min(len(order), MAX_BLOCKS)
    sums, counts = np.bincount(place, data, size), np.bincount(place, minlength=size).astype(float)
    over = f"{len(data)} prompt{'s' if len(data) != 1 else ''}"
    return sums, counts, over if len(order) == len(data) else f"{over} of {len(order)} conversations"


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p after Holm's (1979) step-down correction for all of them."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def level(values: Sequence[dict[str, float]], conversation: Mapping[str, str] | None = None) -> Interval:
    """The mean and interval of a metric, from per-prompt values, one dict per seed. Equal seeds (a start model whose prompts and
    noise don't vary) count as one. `conversation`: as in `paired`."""
    if all(row == values[0] for row in values):
        return over_items(list(values[0].values()), [(conversation or {}).get(key, key) for key in values[0]])
    interval = over_seeds([sum(row.values()) / len(row) for row in values])
    few = min(_count(row, conversation or {}) for row in values) < FEWEST
    return replace(interval, low=None, high=None) if few else interval


def _count(row: Mapping[str, float], conversation: Mapping[str, str]) -> int:
    """The number of conversations of the prompts."""
    return len({conversation.get(key, key) for key in row})
