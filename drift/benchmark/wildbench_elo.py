"""WB-Elo: a rating of models by the grades that they got for the same WildBench tasks, on the scale of a chat arena.

Two grades of one task are a vote: a win if they differ by `margin` or more, else a tie if by `tie_margin` or less. A vote between
replies whose lengths differ by more than `length_margin` characters is a tie; empty and cut-off replies have no votes. Every round
goes once through all votes in random order; the rating is the mean over rounds. Models with a known rating (`anchors`) start from
it and are pulled halfway back to it every `interval` updates, from the first on; the others start at 1000. So a rating depends on
which models' score files it is computed with."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from drift.benchmark.wildbench import Graded, counts

START = 1000.0
PUBLISHED = {"margin": 2, "tie_margin": 2, "k": 4, "interval": 100, "length_margin": 1500, "rounds": 128}
SEED = 42

Vote = tuple[str, str, float]  # two models, and the points of the first: 1, 0.5 or 0


@dataclass(frozen=True, kw_only=True)
class Rating:
    """`low`, `high`: between them lie 95 % of the rounds' ratings, which differ by the order of the votes only."""

    elo: float
    low: float
    high: float


def ratings(
    grades: Mapping[str, Sequence[Graded]], anchors: Mapping[str, float], *,
    margin: int, tie_margin: int, k: float, interval: int, length_margin: int, rounds: int,
) -> dict[str, Rating]:  # fmt: skip
    """Model -> its rating. `grades`: model -> the rows of its score file."""
    import numpy as np

    cast = [
        vote
        for vote in votes(grades, margin=margin, tie_margin=tie_margin, length_margin=length_margin)
        if not (vote[0] in anchors and vote[1] in anchors)
    ]
    order, found = random.Random(SEED), defaultdict(list)
    for _ in range(rounds):
        for model, elo in one_round(order.sample(cast, len(cast)), anchors, k=k, interval=interval).items():
            found[model].append(elo)
    return {
        model: Rating(elo=sum(elos) / len(elos), low=float(np.percentile(elos, 2.5)), high=float(np.percentile(elos, 97.5)))
        for model, elos in found.items()
    }


def votes(grades: Mapping[str, Sequence[Graded]], *, margin: int, tie_margin: int, length_margin: int) -> list[Vote]:
    """The votes of all pairs of models, task by task."""
    by_task: dict[str, dict[str, Graded]] = defaultdict(dict)
    for model, rows in grades.items():
        for row in rows:
            by_task[row.key][model] = row
    cast: list[Vote] = []
    for rows in by_task.values():
        whole = {model: row for model, row in rows.items() if counts(row.reply.strip())}
        for one, other in combinations(whole, 2):
            gap = int(whole[one].grade) - int(whole[other].grade)
            too_long = abs(len(whole[one].reply.strip()) - len(whole[other].reply.strip())) > length_margin
            if abs(gap) >= margin:
                cast.append((one, other, 0.5 if too_long else float(gap > 0)))
            elif abs(gap) <= tie_margin:
                cast.append((one, other, 0.5))
    return cast


def one_round(cast: Sequence[Vote], anchors: Mapping[str, float], *, k: float, interval: int) -> dict[str, float]:
    """Model -> its rating after these votes, in this order."""
    elo = {model: anchors.get(model, START) for vote in cast for model in vote[:2]}
    updates: Counter[str] = Counter()
    for one, other, points in cast:
        expected = 1 / (1 + 10 ** ((elo[other] - elo[one]) / 400))
        for model, gain in ((one, points - expected), (other, expected - points)):
            elo[model] += k * gain
            if model in anchors and updates[model] % interval == 0:
                elo[model] = (elo[model] + anchors[model]) / 2
            updates[model] += 1
    return elo
