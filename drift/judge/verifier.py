"""A judge that runs the deployment's own check, with noise on top. Needs records with a known truth.

With `noise` 0 it is an oracle, the same function as the metric: fine as an upper bound, no fair competitor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drift.data.requests import verify
from drift.errors import UserError
from drift.identity import code
from drift.records import Record, digest


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """`noise`: standard deviation of the normal noise on the 0/1 verdict. `seed`: of that noise."""

    noise: float
    seed: int

    needs_truth = True

    def check(self) -> None:
        if self.noise < 0:
            raise UserError(f"method.judge.noise={self.noise}: expected 0 (oracle) or more.")

    @property
    def label(self) -> str:
        if self.noise == 0:
            return "oracle, same function as the metric"
        return f"verifier with noise N(0, {self.noise:g})"

    def key(self) -> dict[str, Any]:
        """`checks`: the verdicts are another file's work."""
        return {"noise": self.noise, "seed": self.seed, "checks": code(verify)}

    def scores(self, record: Record, replies: Sequence[str]) -> list[float]:
        """One score per reply; the noise depends on record and reply alone, so asking twice gives the same answer."""
        import numpy as np

        assert record.truth is not None
        found = []
        for reply in replies:
            noise = np.random.default_rng(int(digest([self.seed, record.key, reply])[:16], 16)).normal()
            found.append(float(verify(record.truth, reply).useful) + self.noise * float(noise))
        return found
