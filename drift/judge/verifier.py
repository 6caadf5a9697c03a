"""A judge that runs the deployment's own check and adds noise. It needs records with a known truth.

With `noise` 0 it is an oracle, the same function as the metric: useful as an upper bound, but not a fair competitor.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from drift.data.requests import verify
from drift.errors import UserError
from drift.identity import code
from drift.records import Record, Reply, digest


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """`noise`: the standard deviation of the normal noise added to the 0/1 verdict. `seed`: of the noise. `group_size`: the number
    of items judged at once."""

    noise: float
    seed: int
    group_size: int

    needs_truth: ClassVar[bool] = True
    loads_nothing: ClassVar[Literal[True]] = True

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
        """`checks`: the code of the verdicts, which is in another file. A score does not depend on `group_size`."""
        return {"noise": self.noise, "seed": self.seed, "checks": code(verify)}

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[tuple[Record, Sequence[Reply]]]], list[list[float]]]]:
        """Loads nothing."""
        yield lambda groups: [[self.score(record, reply) for reply in replies] for record, replies in groups]

    def score(self, record: Record, reply: Reply) -> float:
        """The verdict plus noise that depends only on record and reply, so that judging twice gives the same score."""
        import numpy as np

        assert record.truth is not None
        noise = np.random.default_rng(int(digest([self.seed, record.key, reply.text])[:16], 16)).normal()
        return float(verify(record.truth, reply.text, ended=reply.ended).useful) + self.noise * float(noise)
