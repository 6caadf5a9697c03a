"""From replies with rewards to figures with intervals. With one seed, intervals are over prompts (jackknife; the map and the
clusters stay as they are); with several, over seeds (t)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from drift.console import say
from drift.exploration import clusters, density, diversity
from drift.exploration.embedding import embed
from drift.exploration.placement import centred, place
from drift.exploration.replies import Pool
from drift.exploration.settings import Exploration
from drift.statistics import FEWEST, Interval, over_seeds
from drift.store import Store

Statistic = Callable[[Any], Any]  # (r, P) numbers of draws of each prompt -> (r,)
PerPrompt = dict[str, list[dict[str, float]]]  # policy -> a dict per seed, prompt -> value


@dataclass(frozen=True, kw_only=True)
class Found:
    """`places` (N, d) and `clusters` (N,) of the replies; `high` (C,): the high-reward clusters. `coverage`, `reached`: of each
    policy; `gaps`: (one policy, another, the difference of their coverages); `by_seed`: seed -> policy -> coverage. `replies`: what
    is measured on the replies to a prompt. `sensitivity`: the coverages with other settings."""

    places: Any
    clusters: Any
    high: Any
    weights: Any
    coverage: dict[str, Interval]
    gaps: list[tuple[str, str, Interval]]
    by_seed: dict[str, dict[str, float]]
    reached: dict[str, Interval]
    replies: dict[str, PerPrompt]
    sensitivity: list[tuple[dict[str, Any], dict[str, float]]]


def measure(pool: Pool, settings: Exploration, store: Store, folder: Path) -> Found:
    """`folder`: of the embedding model."""
    vectors = embeddings(pool, settings, store, folder)
    moved = centred(vectors, pool.prompts, settings.centre)
    places, weights = place(store, settings, moved), density.weights_of(pool.rewards, settings.rewards)
    say("  intervals ...")
    resample = [density.resampled(row, settings.quantile, settings.threshold) for row in by_prompt(pool, settings, places, weights)]
    number = {name: i for i, name in enumerate(pool.policy_names)}
    near = clusters.clusters_of(moved, settings.clusters, settings.seed)
    high = clusters.high_reward(near, weights)
    counts = [reaches(pool, near, weights, high, settings.least_replies, seed) for seed in range(len(pool.seed_names))]
    ones = [np.ones((1, len(pool.prompts_of(seed)))) for seed in range(len(pool.seed_names))]
    return Found(
        places=places, clusters=near, high=high, weights=weights,
        coverage={name: interval(pool, [column(of, i) for of in resample]) for name, i in number.items()},
        gaps=[(a, b, interval(pool, [gap(of, number[a], number[b]) for of in resample])) for b, a in combinations(number, 2)],
        by_seed={
            name: dict(zip(number, map(float, of(one)[0]), strict=True))
            for name, of, one in zip(pool.seed_names, resample, ones, strict=True)
        },
        reached={name: interval(pool, [column(of, i) for of in counts]) for name, i in number.items()},
        replies=on_replies(pool, vectors),
        sensitivity=list(sensitivity(pool, settings, store, vectors, places)),
    )  # fmt: skip


def embeddings(pool: Pool, settings: Exploration, store: Store, folder: Path) -> Any:
    """(N, d): a stage for each policy and seed, so that another method costs no more than its own replies."""
    found: Any = None
    for seed in range(len(pool.seed_names)):
        for policy in range(len(pool.policy_names)):
            rows = np.flatnonzero((pool.seeds == seed) & (pool.policies == policy))
            part = embed(store, settings, folder, [pool.texts[i] for i in rows])
            found = np.zeros((len(pool.texts), part.shape[1]), dtype=np.float32) if found is None else found
            found[rows] = part
    return found


def by_prompt(pool: Pool, settings: Exploration, places: Any, weights: Any) -> list[Any]:
    """For each seed (P, M, G): what the replies of each policy to each prompt add to its density. All seeds share one grid."""
    axes, width = density.axes_of(places, settings.grid), density.width_of(places, settings.bandwidth)
    found, count = [], len(pool.policy_names)
    for seed in range(len(pool.seed_names)):
        chosen, numbers = pool.seeds == seed, pool.prompts_of(seed)
        groups = np.searchsorted(numbers, pool.prompts[chosen]) * count + pool.policies[chosen]
        parts = density.densities(places[chosen], weights[chosen], groups, len(numbers) * count, axes, width)
        found.append(parts.reshape(len(numbers), count, -1))
    return found


def reaches(pool: Pool, near: Any, weights: Any, high: Any, least: int, seed: int) -> Callable[[Any], Any]:
    """Of one seed: numbers of draws of its prompts -> high-reward clusters that each policy reaches."""
    chosen, numbers = pool.seeds == seed, pool.prompts_of(seed)
    good = clusters.good_of(weights)[chosen]
    shape = (len(numbers), len(pool.policy_names), len(high))
    prompts = np.searchsorted(numbers, pool.prompts[chosen])
    return clusters.reached(clusters.good_counts(near[chosen], good, pool.policies[chosen], prompts, shape), high, least)


def column(of: Callable[[Any], Any], i: int) -> Statistic:
    return lambda drawn: of(drawn)[:, i]


def gap(of: Callable[[Any], Any], i: int, j: int) -> Statistic:
    return lambda drawn: of(drawn)[:, i] - of(drawn)[:, j]


def interval(pool: Pool, statistics: Sequence[Statistic]) -> Interval:
    """Of a statistic of each seed."""
    if len(statistics) == 1:
        return jackknife(statistics[0], [pool.records[prompt].conversation for prompt in pool.prompts_of(0)])
    sizes = [len(pool.prompts_of(seed)) for seed in range(len(statistics))]
    return over_seeds([float(of(np.ones((1, size)))[0]) for of, size in zip(statistics, sizes, strict=True)])


def jackknife(statistic: Statistic, conversations: Sequence[str]) -> Interval:
    """The value with a t interval from leaving out one conversation at a time (Tukey). A bootstrap leaves out a third of the
    prompts, which shifts coverages and counts of clusters as a whole, so that its intervals mislead."""
    from scipy.stats import t

    names, own = np.unique(conversations, return_inverse=True)
    count, value = len(names), float(statistic(np.ones((1, len(own))))[0])
    over = f"{len(own)} prompts" if count == len(own) else f"{len(own)} prompts of {count} conversations"
    if count < FEWEST:
        return Interval(mean=value, low=None, high=None, over=over)
    without = statistic((own[None, :] != np.arange(count)[:, None]).astype(float))  # (count,)
    error = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    half = float(t.ppf(0.975, count - 1)) * error
    return Interval(mean=value, low=value - half, high=value + half, over=over)


def on_replies(pool: Pool, vectors: Any) -> dict[str, PerPrompt]:
    """What is measured on the replies of a policy to a prompt: metric -> policy -> a dict per seed."""
    found: dict[str, PerPrompt] = {}
    for m, name in enumerate(pool.policy_names):
        for seed in range(len(pool.seed_names)):
            for prompt in pool.prompts_of(seed):
                rows = np.flatnonzero((pool.policies == m) & (pool.prompts == prompt))
                texts = [pool.texts[i] for i in rows]
                values = {
                    "reward": float(pool.rewards[rows].mean()),
                    **{f"distinct-{n}": diversity.distinct(texts, n) for n in (1, 2, 3)},
                    "self-BLEU": diversity.self_bleu(texts),
                    "embedding distance": diversity.distance(vectors[rows].astype(float)),
                    "words": sum(len(diversity.lowered(text)) for text in texts) / len(texts),
                }
                for metric, value in values.items():
                    per_seed = found.setdefault(metric, {}).setdefault(name, [{} for _ in pool.seed_names])
                    per_seed[seed][pool.records[prompt].key] = value
    return found


def sensitivity(pool: Pool, settings: Exploration, store: Store, vectors: Any, places: Any) -> Any:
    """(the changed settings, policy -> coverage as the mean over seeds) for every variant in `settings.sensitivity`."""
    for changed, other in settings.crossed():
        yield changed, coverages(pool, other, places)
    for changed, other in settings.alone():
        if not changed.keys() <= {"grid", "rewards"}:  # those need another map
            yield changed, coverages(pool, other, place(store, other, centred(vectors, pool.prompts, other.centre)))
        else:
            yield changed, coverages(pool, other, places)


def coverages(pool: Pool, settings: Exploration, places: Any) -> dict[str, float]:
    parts = by_prompt(pool, settings, places, density.weights_of(pool.rewards, settings.rewards))
    means = np.mean([density.coverage(row.sum(axis=0), settings.quantile, settings.threshold) for row in parts], axis=0)
    return dict(zip(pool.policy_names, map(float, means), strict=True))
