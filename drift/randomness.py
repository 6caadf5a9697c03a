"""The randomness of a reply: one uniform number per token position, from a counter-based generator keyed by what the reply
is for (seed, purpose, iteration, item, sample index). A reply's noise never depends on its neighbours in a batch."""

from typing import Any

from drift.records import digest


def uniforms(seed: int, purpose: str, iteration: int, item: str, sample: int, count: int) -> Any:
    """`(count,)` float64 array of uniforms in [0, 1)."""
    import numpy as np

    key = int(digest([seed, purpose, iteration, item, sample])[:32], 16)  # Philox takes 128 bits
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def order(seed: int, purpose: str, iteration: int, items: list[str]) -> list[int]:
    """A permutation of the items that depends on their contents and not on where they stood."""
    return sorted(range(len(items)), key=lambda i: digest([seed, purpose, iteration, items[i]]))
