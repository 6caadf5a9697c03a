"""What the kept runs say: gains, paired differences, the choice of configurations, and how many seeds are wanted."""

import warnings
from collections.abc import Iterable, Sequence
from math import ceil
from statistics import stdev
from typing import Any

from settings import CHOICES, FIRST, OLD_SEEDS, PRIMARY, RIVALS, TEST_SEEDS, TUNE_SEEDS

from drift.statistics import FEWEST, RESAMPLES, Interval

Row = dict[str, Any]  # a line of runs.jsonl
PERPLEXITY = "perplexity under start"


def wanted(known: Sequence[Row]) -> int:
    """Seeds of R1: FIRST, then as many as give 80 % power for +.08 in the first step of Holm's three, at the largest standard
    deviation of a primary difference over the first eight; at most twenty."""
    differences = [gaps(known, "R1", PRIMARY, rival, TEST_SEEDS[:FIRST]) for rival in RIVALS]
    if min(map(len, differences)) < FIRST:
        return FIRST
    return max(FIRST, seeds_for(0.08, max(map(stdev, differences)), alpha=0.05 / len(RIVALS), most=len(TEST_SEEDS)))


def seeds_for(effect: float, deviation: float, *, alpha: float, most: int) -> int:
    """The least number of seeds with power .8 in a two-sided paired t test; at most `most`."""
    from statsmodels.stats.power import TTestPower

    return min(most, ceil(TTestPower().solve_power(effect / deviation, power=0.8, alpha=alpha)))


def last(row: Row) -> str:
    return list(row["points"])[-1]


def gain(row: Row, metric: str = "utility") -> float:
    return row["points"][last(row)][metric] - row["points"]["start"][metric]


def gains(known: Sequence[Row], phase: str, arm: str, config: list[str] | None = None) -> dict[int, float]:
    """Seed -> gain over the start model."""
    rows = [row for row in known if (row["phase"], row["arm"]) == (phase, arm) and config in (None, row["config"])]
    return {row["seed"]: gain(row) for row in rows}


def gaps(known: Sequence[Row], phase: str, one: str, other: str, seeds: Iterable[int]) -> list[float]:
    """Paired differences of two arms' gains, by seed."""
    first, second = gains(known, phase, one), gains(known, phase, other)
    return [first[seed] - second[seed] for seed in seeds if seed in first and seed in second]


def finalists(known: Sequence[Row], arm: str) -> list[list[str]]:
    """The two configurations with the best gain on the first tuning seed, the first of equals; none while a run is missing."""
    first = TUNE_SEEDS[0]
    found = [gains(known, "tune", arm, config) for config in CHOICES[arm]]
    if any(first not in one for one in found):
        return []
    order = sorted(range(len(found)), key=lambda index: -found[index][first])
    return [CHOICES[arm][index] for index in order[:2]]


def choose(known: Sequence[Row], arm: str) -> list[str] | None:
    """The finalist with the best mean gain over TUNE_SEEDS; None while a run is missing."""
    last_two = finalists(known, arm)
    found = [gains(known, "tune", arm, config) for config in last_two]
    if not found or any(not set(TUNE_SEEDS) <= set(one) for one in found):
        return None
    means = [sum(one[seed] for seed in TUNE_SEEDS) / len(TUNE_SEEDS) for one in found]
    return last_two[means.index(max(means))]


def held(row: Row) -> bool:
    """Whether a run from an old log held: after its last iteration utility is above the start model's and at most .05 below that
    after the first, and the replies' perplexity under the start model at most doubled (ruined text can still meet a request)."""
    start, first, end = (row["points"][name] for name in ("start", "iteration 1", last(row)))
    good = end["utility"] > start["utility"] and end["utility"] >= first["utility"] - 0.05
    return good and end[PERPLEXITY] <= 2 * start[PERPLEXITY]


def still_held(known: Sequence[Row], arm: str, seed: int) -> bool:
    """Whether a setting for an old log held in every seed before `seed`; not while one of those runs is missing."""
    runs = {row["seed"]: row for row in known if (row["phase"], row["arm"]) == ("old", arm)}
    before = OLD_SEEDS[: OLD_SEEDS.index(seed)]
    return all(one in runs and held(runs[one]) for one in before)


def prediction(cells: Sequence[tuple[float, float]]) -> Interval:
    """Spearman's rank correlation of what was predicted and what came, with a BCa bootstrap interval over the cells."""
    import numpy as np
    from scipy.stats import bootstrap, spearmanr

    expected, obtained = map(np.asarray, zip(*cells, strict=True))

    def correlation(one: Any, other: Any) -> Any:
        found: Any = spearmanr(one, other)
        return np.nan_to_num(found[0])  # 0 where nothing varies

    ends: dict[str, Any] = {"low": None, "high": None}
    if len(cells) >= FEWEST:
        rng = np.random.default_rng(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of samples in which nothing varies
            found = bootstrap(
                (expected, obtained), correlation, paired=True, vectorized=False,
                n_resamples=RESAMPLES, method="BCa", rng=rng,
            ).confidence_interval  # fmt: skip
        if np.isfinite(found).all():  # not if all cells agree
            ends = {"low": float(found.low), "high": float(found.high)}
    return Interval(mean=float(correlation(expected, obtained)), **ends, over="cells")
