"""Compares groups of runs, two at a time, on the same prompts, and checks whether the two trained on the same amount.

Two groups that trained on different numbers of examples or steps are not ranked: the report shows their difference, and how to
match them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from drift.report.members import by_seed, conversation_of, having, headline, point_of, scored_names, values
from drift.report.state import RunState
from drift.statistics import Difference, holm, paired

MOST_COMPARED = 12  # up to so many groups, all pairs are compared; of more, each is compared with the first
SAME_PROMPTS = 0.9  # the share of the prompts that two runs must have in common to be compared
NO_DIFFERENCE, NOT_MATCHED, TOO_FEW = "no significant difference", "not matched", "too few prompts to tell"
NO_NUMBER = "not a number: a policy is broken"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two groups: `examples` and optimiser `steps` up to the compared policy, a number per seed; `fewest`: the fewest
    examples of an iteration."""

    label: str
    examples: tuple[int, ...]
    steps: tuple[int, ...]
    fewest: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`at`: the compared policies. `gap`: `one` minus `other`. `p_holm`: p corrected for all matched comparisons of a study."""

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
    """All pairs of groups (with very many groups: the first and each other one), at the last policy that at least two seeds of both
    have, or the only seed: the paired difference over these seeds. Groups with different evaluations are not compared."""
    pairs = [pair for pair in combinations(grouped, 2) if len(grouped) <= MOST_COMPARED or pair[0] == next(iter(grouped))]
    comparisons = [made for one, other in pairs if (made := _compare_two(grouped, one, other)) is not None]
    family = [i for i, this in enumerate(comparisons) if this.matched and this.gap.p is not None and not this.gap.few]
    for i, p in zip(family, holm([comparisons[i].gap.p or 0.0 for i in family]), strict=True):
        comparisons[i] = replace(comparisons[i], p_holm=p)
    return comparisons


def _compare_two(grouped: Mapping[str, Sequence[RunState]], one: str, other: str) -> Comparison | None:
    """None if the two have nothing in common. Compares policies of the same name, or the last ones of both if they have no name in
    common (only a warm start against iterations)."""
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
    """The examples and steps up to the policy of that name."""
    so_far = [state.points[: state.points.index(point_of(state, name)[0]) + 1] for state in states]
    return Side(
        label=label,
        examples=tuple(sum(point.examples or 0 for point in points) for points in so_far),
        steps=tuple(sum(point.steps or 0 for point in points) for points in so_far),
        fewest=min((point.examples for points in so_far for point in points if point.examples is not None), default=0),
    )


def _same_prompts(one: dict[str, float], other: dict[str, float]) -> bool:
    return bool(one) and len(one.keys() & other.keys()) >= SAME_PROMPTS * max(len(one), len(other))
