"""A judge that runs the deployment's own check, with noise on top. Needs records with a known truth.

With `noise` 0 it is an oracle, the same function as the metric: fine as an upper bound, no fair competitor.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from drift.data.requests import verify
from drift.errors import UserError
from drift.identity import code
from drift.records import Record, digest


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """`noise`: standard deviation of the normal noise on the 0/1 verdict. `seed`: of that noise. `group_size`: items judged at
    once."""

    noise: float
    seed: int
    group_size: int

    needs_truth: ClassVar[bool] = True

    def check(self) -> None:
        if self.group_size < 1:
            raise UserError(f"judge.group_size={self.group_size}: expected at least 1.")
        if self.noise < 0:
            raise UserError(f"method.judge.noise={self.noise}: expected 0 (oracle) or more.")

    @property
    def label(self) -> str:
        if self.noise == 0:
            return "oracle, same function as the metric"
        return f"verifier with noise N(0, {self.noise:g})"

    def key(self) -> dict[str, Any]:
        """`checks`: the verdicts are another file's work. A score does not depend on `group_size`."""
        return {"noise": self.noise, "seed": self.seed, "checks": code(verify)}

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[tuple[Record, Sequence[str]]]], list[list[float]]]]:
        """Nothing has to be loaded."""
        yield lambda groups: [[self.score(record, reply) for reply in replies] for record, replies in groups]

    def score(self, record: Record, reply: str) -> float:
        """The noise depends on record and reply alone, so asking twice gives the same answer."""
        import numpy as np

        assert record.truth is not None
        noise = np.random.default_rng(int(digest([self.seed, record.key, reply])[:16], 16)).normal()
        return float(verify(record.truth, reply).useful) + self.noise * float(noise)
