"""The null control of DRIFT: rejected is any logged reply, whatever the user thought of it; chosen is a fresh sample.

What this gains is owed to "fresh against logged" and to training as such; what DRIFT gains beyond it comes from dissatisfaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drift.method.drift import Drift
from drift.records import Record


@dataclass(frozen=True, kw_only=True)
class RandomLogged(Drift):
    """`guidance` and `rounds` as in DRIFT. The records come in an order that knows no labels."""

    needs: ClassVar[str] = "DSAT or SAT"

    def rejected(self, records: Sequence[Record]) -> list[Record]:
        return list(records)
