"""The sampler of an evaluation whose replies need settings of their own: the run's, with these settings replaced."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from drift.errors import UserError
from drift.parts import Sampler
from drift.sampler.contracts import Concurrent


def own_sampler(evaluation: Any, names: Sequence[str], sampler: Sampler, setting: str) -> Any:
    """The run's sampler with the evaluation's values of `names`, but for the `group_size` of one that draws a group at once.
    `setting`: where the evaluation stands in the config."""
    known: Any = sampler
    if lacking := sorted(set(names) - {item.name for item in fields(known)}):
        raise UserError(
            f"{setting} sets the sampler's {', '.join(names)}, and this sampler lacks {', '.join(lacking)}. Use "
            "sampler=transformers, or leave this evaluation out."
        )
    at_once = isinstance(sampler, Concurrent)
    changed = [name for name in names if name != "group_size" or not at_once]
    return replace(known, **{name: getattr(evaluation, name) for name in changed})


def how(temperature: float, max_new_tokens: int) -> str:
    """How replies are drawn, in words."""
    return f"{'greedily' if temperature == 0 else f'at temperature {temperature:g}'} in up to {max_new_tokens} tokens"
