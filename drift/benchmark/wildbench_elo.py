"""WB-Elo: a rating of models by the grades that they got for the same WildBench tasks, on the scale of a chat arena.

Two grades of one task are a vote: a win if they differ by `margin` or more, else a tie if by `tie_margin` or less. A vote between
replies whose lengths differ by more than `length_margin` characters is a tie; empty and cut-off replies have no votes. Every round
goes once through all votes in random order; the rating is the mean over rounds. Models with a known rating (`anchors`) start from
it and are pulled halfway back to it every `interval` updates, from the first on; the others start at 1000. So a rating depends on
which models' score files it is computed with.

The published interval is that of the rounds, which differ by the order of the votes only. `over_tasks` gives one over tasks, which
are drawn anew, with replacement."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from drift.benchmark.wildbench import Graded, counts

START = 1000.0
PUBLISHED = {"margin": 2, "tie_margin": 2, "k": 4, "interval": 100, "length_margin": 1500, "rounds": 128}
SEED = 42
RESAMPLES, ORDERS = 128, 4  # draws of tasks; rounds of each, over which the order of the votes is averaged out

NO_VOTE = -1  # in an order of votes: nothing happens
CELLS = 5 * 10**7  # votes of all rounds that are in memory at once

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
    order = random.Random(SEED)
    orders = np.stack([np.asarray(order.sample(range(len(cast)), len(cast)), dtype=np.int32) for _ in range(rounds)])
    models, found = play(cast, orders, anchors, k, interval)
    low, high = np.percentile(found, [2.5, 97.5], axis=0) if models else ([], [])
    return {model: Rating(elo=float(found[:, i].mean()), low=float(low[i]), high=float(high[i])) for i, model in enumerate(models)}


def over_tasks(
    grades: Mapping[str, Sequence[Graded]], *, margin: int, tie_margin: int, k: float, length_margin: int
) -> dict[str, tuple[float, float]]:
    """Model -> the 95 % interval of its rating over tasks, without anchors: percentiles of the ratings of RESAMPLES draws of as
    many tasks, each the mean over ORDERS rounds."""
    import numpy as np

    by_task: dict[str, dict[str, list[Graded]]] = defaultdict(dict)
    for model, rows in grades.items():
        for row in rows:
            by_task[row.key][model] = [row]
    margins = {"margin": margin, "tie_margin": tie_margin, "length_margin": length_margin}
    by_vote = [votes(rows, **margins) for rows in by_task.values()]
    first = np.cumsum([0, *map(len, by_vote)])
    places = [np.arange(low, high, dtype=np.int32) for low, high in zip(first, first[1:], strict=False)]  # of each task's votes
    cast, models = [vote for row in by_vote for vote in row], list[str]()
    rng, drawn = np.random.default_rng(SEED), []
    at_once = max(1, min(RESAMPLES, CELLS // (ORDERS * max(1, len(cast)))))
    for _ in range(0, RESAMPLES, at_once):
        chosen = [np.concatenate([places[i] for i in rng.integers(0, len(places), len(places))]) for _ in range(at_once)]
        rows = [rng.permutation(row) for row in chosen for _ in range(ORDERS)]
        longest = max(map(len, rows))
        orders = np.stack([np.pad(row, (0, longest - len(row)), constant_values=NO_VOTE) for row in rows])
        models, found = play(cast, orders, {}, k, interval=1)
        drawn.append(found.reshape(at_once, ORDERS, -1).mean(axis=1))
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5], axis=0) if models else ([], [])
    return {model: (float(low[i]), float(high[i])) for i, model in enumerate(models)}


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


def play(cast: Sequence[Vote], orders: Any, anchors: Mapping[str, float], k: float, interval: int) -> tuple[list[str], Any]:
    """(the models that have votes, (rounds, models) their ratings after each round). `orders`: (rounds, steps) the votes in the
    order in which each round goes through them, or NO_VOTE."""
    import numpy as np

    models = list(dict.fromkeys(model for vote in cast for model in vote[:2]))
    place = {model: i for i, model in enumerate(models)}
    sides = np.asarray([*([place[one], place[other]] for one, other, _ in cast), [0, 0]])  # the last row: NO_VOTE
    points = np.asarray([*(vote[2] for vote in cast), 0.5])
    known = np.asarray([anchors.get(model, np.nan) for model in models])
    anchored, rounds = ~np.isnan(known), np.arange(len(orders))
    elo = np.tile(np.where(anchored, known, START), (len(orders), 1))
    updates = np.zeros(elo.shape, dtype=int)
    for votes_now in orders.T:
        one, other = sides[votes_now].T
        expected = 1 / (1 + 10 ** ((elo[rounds, other] - elo[rounds, one]) / 400))
        gain = k * (points[votes_now] - expected)
        for model, change in ((one, gain), (other, -gain)):
            elo[rounds, model] += change
            if anchors:
                pulled = anchored[model] & (updates[rounds, model] % interval == 0)
                elo[rounds[pulled], model[pulled]] = (elo[rounds[pulled], model[pulled]] + known[model[pulled]]) / 2
                updates[rounds, model] += 1
    return models, elo
