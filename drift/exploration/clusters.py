"""Semantic clusters: k-means on the embeddings themselves (not on the map), and how many good ones a policy reaches.

A reply is *good* if its weight is at least the mean of all; a cluster is a *high-reward* one if the mean weight of its replies is.
A policy *reaches* a cluster with at least so many good replies in it."""

from collections.abc import Callable
from typing import Any

import numpy as np

ROUNDING = 1e-12


def clusters_of(vectors: Any, count: int, seed: int) -> Any:
    """(N,) the number of each reply's cluster; fewer clusters if there are fewer different embeddings."""
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(vectors.round(6), axis=0)))
    options: Any = {"n_clusters": count, "n_init": 4, "random_state": seed}
    return KMeans(**options).fit_predict(vectors)


def good_of(weights: Any) -> Any:
    """(N,) whether a reply's weight is at least the mean of all, but for rounding."""
    return weights >= weights.mean() - ROUNDING


def high_reward(clusters: Any, weights: Any) -> Any:
    """(C,) whether the mean weight of a cluster's replies is at least the mean of all."""
    return np.bincount(clusters, weights) / np.bincount(clusters) >= weights.mean() - ROUNDING


def good_counts(clusters: Any, good: Any, policies: Any, prompts: Any, shape: tuple[int, int, int]) -> Any:
    """(P, M, C) = shape: the number of good replies of each prompt and policy in each cluster."""
    counts = np.zeros(shape)
    np.add.at(counts, (prompts[good], policies[good], clusters[good]), 1)
    return counts


def reached(counts: Any, high: Any, least: int) -> Callable[[Any], Any]:
    """A function of (r, P) numbers, how often each prompt was drawn, to the (r, M) numbers of high-reward clusters reached."""
    prompts, policies, _ = counts.shape
    flat = counts[:, :, high].reshape(prompts, -1)
    return lambda drawn: ((drawn @ flat).reshape(len(drawn), policies, -1) >= least).sum(axis=-1)
