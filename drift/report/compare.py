"""Comparisons of groups of runs, two at a time, on the same prompts; and whether the two were matched at all.

Two groups that trained on different numbers of examples or in different numbers of steps are not ranked: their difference is shown,
with what would match them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from drift.report.members import by_seed, conversation_of, having, headline, point_of, scored_names, values
from drift.report.state import RunState
from drift.report.statistics import Difference, holm, paired

MOST_COMPARED = 12  # groups that are all compared with one another; of more, each is compared with the first
SAME_PROMPTS = 0.9  # share of the prompts that two runs must have in common to be compared at all
NO_DIFFERENCE, NOT_MATCHED, TOO_FEW = "no significant difference", "not matched", "too few prompts to tell"
NO_NUMBER = "not a number: a policy is broken"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two: examples and optimiser steps up to the policy compared, a number per seed; `fewest`: examples of an
    iteration."""

    label: str
    examples: tuple[int, ...]
    steps: tuple[int, ...]
    fewest: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`at`: the policies compared. `gap`: one's less the other's. `p_holm`: for all matched comparisons of a study at once."""

    one: Side
    other: Side
    at: str
    metric: str
    gap: Difference
    p_holm: float | None

    @property
    def matched(self) -> bool:
        return (self.one.examples, self.one.steps) == (self.other.examples, self.other.steps)

    @property
    def verdict(self) -> str:
        if not self.matched:
            return NOT_MATCHED
        if not math.isfinite(self.gap.mean):
            return NO_NUMBER
        if self.gap.few:
            return TOO_FEW
        if not self.gap.significant or self.p_holm is None or self.p_holm >= 0.05:
            return NO_DIFFERENCE
        return f"{(self.one if self.gap.mean > 0 else self.other).label} is better"


def compare(grouped: Mapping[str, Sequence[RunState]]) -> list[Comparison]:
    """Every two groups (of very many: the first and every other) at the last policy that two seeds of both have come to, or the
    only one: paired difference over these seeds. Groups that were not evaluated alike are left out."""
    couples = [pair for pair in combinations(grouped, 2) if len(grouped) <= MOST_COMPARED or pair[0] == next(iter(grouped))]
    found = [gap for one, other in couples if (gap := _compared(grouped, one, other)) is not None]
    family = [i for i, this in enumerate(found) if this.matched and this.gap.p is not None and not this.gap.few]
    for i, p in zip(family, holm([found[i].gap.p or 0.0 for i in family]), strict=True):
        found[i] = replace(found[i], p_holm=p)
    return found


def _compared(grouped: Mapping[str, Sequence[RunState]], one: str, other: str) -> Comparison | None:
    """None where the two have nothing in common. Policies of one name are compared, or the last ones of both where no name is the
    same (a warm start alone and iterations)."""
    a, b = by_seed(grouped[one]), by_seed(grouped[other])
    common = [seed for seed in a if seed in b]
    sides = [[side[seed] for seed in common] for side in (a, b)]
    main, names, others = headline(sides[0]), *(scored_names(side)[1:] for side in sides)
    if main != headline(sides[1]) or not names or not others:
        return None
    for name, same in [(name, name) for name in reversed(names) if name in others] or [(names[-1], others[-1])]:
        seeds = [seed for seed in common if having([a[seed]], name) and having([b[seed]], same)]
        if len(seeds) < min(2, len(common)):
            continue
        now, then = [values(a[seed], name, main) for seed in seeds], [values(b[seed], same, main) for seed in seeds]
        if not all(map(_same_prompts, now, then)):
            return None
        gap = paired(now, then, conversation_of([*sides[0], *sides[1]]))
        this, that = _side(one, [a[seed] for seed in seeds], name), _side(other, [b[seed] for seed in seeds], same)
        at = name if name == same else f"{name}, {same}"
        return Comparison(one=this, other=that, at=at, metric=main, gap=gap, p_holm=None)
    return None


def _side(label: str, states: Sequence[RunState], name: str) -> Side:
    """What was trained on up to the policy of that name."""
    so_far = [state.points[: state.points.index(point_of(state, name)[0]) + 1] for state in states]
    return Side(
        label=label,
        examples=tuple(sum(point.examples or 0 for point in points) for points in so_far),
        steps=tuple(sum(point.steps or 0 for point in points) for points in so_far),
        fewest=min((point.examples for points in so_far for point in points if point.examples is not None), default=0),
    )


def _same_prompts(one: dict[str, float], other: dict[str, float]) -> bool:
    return bool(one) and len(one.keys() & other.keys()) >= SAME_PROMPTS * max(len(one), len(other))
