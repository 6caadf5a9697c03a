"""The noise of a reply depends on what the reply is for (seed, purpose, iteration, item, sample index) and on nothing else, so
never on its neighbours in a batch."""

from dataclasses import dataclass
from typing import Any

from drift.records import digest


@dataclass(frozen=True)
class Noise:
    """The identity of a reply's noise, from which a sampler makes uniforms or a seed."""

    seed: int
    purpose: str
    iteration: int
    item: str
    sample: int

    def uniforms(self, count: int) -> Any:
        """`(count,)` float64 array of uniforms in [0, 1), one per token position, from a counter-based generator."""
        import numpy as np

        key = int(self._digest()[:32], 16)  # Philox takes 128 bits
        return np.random.Generator(np.random.Philox(key=key)).random(count)

    def as_seed(self) -> int:
        """A whole number of 63 bits, for samplers that take one seed per reply."""
        return int(self._digest()[-16:], 16) >> 1

    def _digest(self) -> str:
        return digest([self.seed, self.purpose, self.iteration, self.item, self.sample])


def order(seed: int, purpose: str, iteration: int, items: list[str]) -> list[int]:
    """A permutation of the items that depends on their content, not on their original order."""
    return sorted(range(len(items)), key=lambda i: digest([seed, purpose, iteration, items[i]]))
