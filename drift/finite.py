"""Numbers that are none (nan, infinite) end a run: of them no comparison, no mean and no interval says anything."""

import math
from collections.abc import Mapping
from pathlib import Path

from drift.errors import UserError


def need_finite(numbers: Mapping[str, float], where: str, advice: str) -> None:
    """Refuses the first number that is none, by its name. `where`: what stops; `advice`: what to do."""
    broken = [f"{name} is {value}" for name, value in numbers.items() if not math.isfinite(value)]
    if broken:
        raise UserError(f"{where}: {broken[0]}, which is no finite number. {advice}")


def broken_weights(directory: Path, precision: str) -> str:
    """The advice where a policy itself puts such numbers out. `precision`: the setting that it is computed in."""
    return f"The policy in {directory} puts that out: check its weights for nan and inf, or compute in {precision}=float32."
