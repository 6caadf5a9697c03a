"""Reward-weighted kernel density of replies on a map, and each policy's coverage of its high-reward region.

Z_m(g) = sum over the replies i of policy m of r_i K_h(g - z_i): r_i >= 0 is the reward, z_i the place on the map, K_h a Gaussian.
All policies have equally many replies, and Z_all = mean over m of Z_m. The high-reward region is {g: Z_all(g) >= c}, c being a
quantile of Z_all over the grid, and the coverage of m is the share of it where Z_m(g) >= threshold * c. The idea is that of the
DRIFT paper (arXiv 2510.02341); the formulas are ours, because it does not state its own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

CELLS = 4 * 10**6  # numbers of resampled densities that are in memory at once


def weights_of(rewards: Any, how: str) -> Any:
    """Rewards as weights from 0 to 1, (N,): shifted and scaled (`range`), or shares of lower rewards, ties halved (`ranks`). Equal
    rewards say nothing, so all of them weigh 1: the density is that of the replies."""
    low, high = rewards.min(), rewards.max()
    if high == low:
        return np.ones(len(rewards))
    if how == "range":
        return (rewards - low) / (high - low)
    ordered = np.sort(rewards)
    return (np.searchsorted(ordered, rewards, "left") + np.searchsorted(ordered, rewards, "right")) / (2 * len(rewards))


def axes_of(places: Any, grid: int) -> list[Any]:
    """The coordinates of the grid along each axis, over the box of all replies. `places`: (N, d)."""
    return [np.linspace(places[:, k].min(), places[:, k].max(), grid) for k in range(places.shape[1])]


def width_of(places: Any, bandwidth: float) -> float:
    """The kernel's standard deviation: `bandwidth` times that of the map (root mean variance of its axes)."""
    return bandwidth * float(np.sqrt(places.var(axis=0).mean()))


def densities(places: Any, weights: Any, groups: Any, num_groups: int, axes: Sequence[Any], width: float) -> Any:
    """(num_groups, G): the density of each group of replies on the grid, flattened. `groups`: (N,) number of a reply's group. The
    kernel is not normalised: its height is 1."""
    found = np.zeros((num_groups, int(np.prod([len(axis) for axis in axes]))))
    for group in range(num_groups):
        chosen = groups == group
        near = weights[chosen][:, None]  # (n, points so far)
        for k, axis in enumerate(axes[:-1]):
            near = (near[:, :, None] * kernel(places[chosen, k], axis, width)[:, None, :]).reshape(len(near), -1)
        found[group] = (near.T @ kernel(places[chosen, len(axes) - 1], axes[-1], width)).ravel()
    return found


def kernel(at: Any, axis: Any, width: float) -> Any:
    """(n, grid): a Gaussian of the distance from each reply to each coordinate."""
    return np.exp(-0.5 * ((axis[None, :] - at[:, None]) / width) ** 2)


def region(density: Any, quantile: float) -> tuple[Any, Any]:
    """(the pooled density is in the region, (…, G); the quantile c, (…, 1)). `density`: (…, M, G)."""
    pooled = density.mean(axis=-2)
    cut = np.quantile(pooled, quantile, axis=-1, keepdims=True)
    return (pooled >= cut) & (pooled > 0), cut


def coverage(density: Any, quantile: float, threshold: float) -> Any:
    """(…, M): the share of the high-reward region that each policy covers. `density`: (…, M, G)."""
    inside, cut = region(density, quantile)
    covered = (density >= threshold * cut[..., None, :]) & (density > 0) & inside[..., None, :]
    return covered.sum(axis=-1) / np.maximum(inside.sum(axis=-1), 1)[..., None]


def resampled(by_prompt: Any, quantile: float, threshold: float) -> Callable[[Any], Any]:
    """A function of (r, P) numbers, how often each prompt was drawn, to the (r, M) coverages. `by_prompt`: (P, M, G). It remembers
    its results, because the intervals of all policies and of their differences ask for the same draws."""
    known: dict[bytes, Any] = {}
    prompts, policies, points = by_prompt.shape
    flat = by_prompt.reshape(prompts, -1)

    def of(drawn: Any) -> Any:
        if (name := drawn.tobytes()) not in known:
            size = max(1, CELLS // (policies * points))
            known[name] = np.concatenate([
                coverage((drawn[low : low + size] @ flat).reshape(-1, policies, points), quantile, threshold)
                for low in range(0, len(drawn), size)
            ])  # fmt: skip
        return known[name]

    return of
