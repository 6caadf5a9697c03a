"""NaN and infinite numbers end a run: comparisons, means and intervals of them are meaningless."""

import math
from collections.abc import Mapping
from pathlib import Path

from drift.errors import UserError


def need_finite(numbers: Mapping[str, float], where: str, advice: str) -> None:
    """Raises UserError with the name of the first number that is not finite. `where`: what stops; `advice`: what to do."""
    broken = [f"{name} is {value}" for name, value in numbers.items() if not math.isfinite(value)]
    if broken:
        raise UserError(f"{where}: {broken[0]}, which is not a finite number. {advice}")


def broken_weights(directory: Path, precision: str) -> str:
    """The advice if the policy itself produces such numbers. `precision`: the setting for its precision."""
    return f"The policy in {directory} produces it: check its weights for nan and inf, or compute in {precision}=float32."
