"""AlpacaEval's length control (arXiv 2404.04475, equation 2): a logistic regression of the preferences, without intercept, on
tanh(length difference / its standard deviation), the instruction's fixed difficulty, and the model. The length-controlled win rate
is the mean prediction with a length difference of 0.

The published choices: an L1 penalty (liblinear), its strength by five-fold cross-validation; each preference is two rows, a win and
a loss, weighted by it; two models that answer nothing sensible ("gamed") are added with a weight of 0.1 a row. Their rows and the
difficulties are in a file of the authors, df_gamed.csv, with a row per gamed model and instruction. Those of an instruction whose
verdict can't be read are predicted too, as published."""

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from drift.errors import UserError, need_package

GAMED_WEIGHT = 0.2 / 2  # the published strength, for each of two gamed models
STRENGTHS = (-4.0, 4.0, 10)  # of the inverse penalty: log10 of the lowest and the highest, number
FOLDS, SEED = 5, 123
COLUMNS = ("preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A judged instruction. `preference`: from 1 to 2, or None. `length_difference`: characters of the baseline's reply minus those
    of the model's."""

    index: int
    preference: float | None
    length_difference: int


@dataclass(frozen=True, kw_only=True)
class Gamed:
    """`difficulty`: of each instruction. `features`: (n, 3), as in `features`; `shares`: (n,) preferences from 0 to 1, nan where
    there is none."""

    difficulty: dict[int, float]
    features: Any
    shares: Any


@cache
def load(file: Path) -> Gamed:
    """The authors' file."""
    import numpy as np

    need_package("sklearn", "the length-controlled win rate", extra="benchmarks")
    try:
        with open(file, encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        if missing := [name for name in COLUMNS if not rows or name not in rows[0]]:
            raise UserError(f"{file}: expected a table with the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}.")
        indices = [int(row["index"]) for row in rows]
        difficulty = [float(row["instruction_difficulty"]) for row in rows]
        lengths = [float(row["std_delta_len"]) for row in rows]
        shares = [float(row["preference"] or "nan") for row in rows]
        models = [float(row["not_gamed_baseline"] == "True") for row in rows]
    except (OSError, ValueError) as error:
        raise UserError(f"{file} can't be read: {error}. Expected df_gamed.csv of the data set tatsu-lab/alpaca_eval.") from error
    first = dict(zip(reversed(indices), reversed(difficulty), strict=True))
    return Gamed(difficulty=first, features=features(lengths, difficulty, models), shares=np.asarray(shares))


def features(lengths: Sequence[float], difficulty: Sequence[float], models: Sequence[float]) -> Any:
    """(n, 3): tanh of the standardised length difference, difficulty, 1 for the model and 0 for a gamed one."""
    import numpy as np

    return np.column_stack([np.tanh(lengths), difficulty, models])


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """(n,) for each row: `shares`, the predicted shares of wins against the baseline, from 0 to 1, if the replies were as long as
    the baseline's; `contributions`, numbers with the same mean, whose spread tells how certain it is."""

    shares: Any
    contributions: Any


def predict(rows: Sequence[Row], gamed: Gamed) -> Fitted:
    import numpy as np

    if unknown := [row.index for row in rows if row.index not in gamed.difficulty]:
        raise UserError(f"df_gamed.csv has no difficulty for instruction {unknown[0]}. Expected one for each of the 805.")
    differences = np.asarray([row.length_difference for row in rows], dtype=float)
    if len(rows) < 2 or not differences.std():
        raise UserError("The length-controlled win rate needs replies whose lengths differ from the baseline's by various amounts.")
    difficulty = [gamed.difficulty[row.index] for row in rows]
    own = features(differences / differences.std(ddof=1), difficulty, [1.0] * len(rows))
    shares = np.asarray([np.nan if row.preference is None else (row.preference or 1.5) - 1 for row in rows])
    weights = np.concatenate([np.full(len(gamed.shares), GAMED_WEIGHT), np.ones(len(rows))])
    inputs, targets = np.concatenate([gamed.features, own]), np.concatenate([gamed.shares, shares])
    known = ~np.isnan(targets)
    coefficients = fit(inputs[known], targets[known], weights[known])
    equal_length = features([0.0] * len(rows), difficulty, [1.0] * len(rows))
    predicted = sigmoid(equal_length @ coefficients)
    influence = influences(own, shares, inputs[known], weights[known], equal_length, coefficients)
    return Fitted(shares=predicted, contributions=predicted + influence - influence.mean())


def influences(own: Any, shares: Any, inputs: Any, weights: Any, equal_length: Any, coefficients: Any) -> Any:
    """(n,): by how much each verdict moves the mean prediction, times n; 0 where there is none. All predictions share three
    coefficients, so the spread of the predictions says nothing about the certainty of their mean: this is the infinitesimal
    jackknife of a logistic regression. It leaves out the penalty, so for a panel of a few prompts it is too wide.
    own, equal_length: (n, 3); inputs: (m, 3), weights: (m,) of the rows that it was fitted on."""
    import numpy as np

    slopes, fitted_shares = sigmoid(equal_length @ coefficients), sigmoid(inputs @ coefficients)
    gradient = (slopes * (1 - slopes)) @ equal_length
    curved = inputs * (weights * fitted_shares * (1 - fitted_shares))[:, None]
    moved = np.linalg.pinv(curved.T @ inputs) @ gradient
    errors = np.nan_to_num(shares - sigmoid(own @ coefficients))
    return errors * (own @ moved)


def sigmoid(values: Any) -> Any:
    import numpy as np

    return 1 / (1 + np.exp(-values))


def fit(inputs: Any, shares: Any, weights: Any) -> Any:
    """The (3,) coefficients. inputs: (n, 3); shares, weights: (n,)."""
    import numpy as np
    from sklearn.model_selection import GroupKFold

    both, wins = np.concatenate([inputs, inputs]), np.concatenate([np.ones(len(shares)), np.zeros(len(shares))])
    soft, doubled = np.concatenate([shares, 1 - shares]), np.concatenate([weights, weights])
    folds = list(GroupKFold(n_splits=FOLDS).split(both, wins, np.tile(np.arange(len(shares)), 2)))
    strengths = np.logspace(*STRENGTHS)
    losses = np.zeros(len(strengths))
    for train, test in folds:
        order = np.random.RandomState(SEED)  # of the solver's steps: one for all strengths of a fold, as published
        for i, strength in enumerate(strengths):
            model = fitted(both[train], wins[train], (soft * doubled)[train], strength, order)
            truth = np.where(wins == 1, soft, 1 - soft)[test]
            losses[i] += loss(model.predict_proba(both[test])[:, 1], truth, doubled[test])
    return fitted(both, wins, soft * doubled, strengths[losses.argmin()], SEED).coef_[0]


def fitted(inputs: Any, wins: Any, weights: Any, strength: float, order: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about steps without convergence, as in the published figures
        model = LogisticRegression(l1_ratio=1, C=strength, solver="liblinear", fit_intercept=False, random_state=order)
        return model.fit(inputs, wins, sample_weight=weights)


def loss(predicted: Any, shares: Any, weights: Any) -> float:
    """The mean weighted cross-entropy of predicted shares of wins."""
    import numpy as np

    sure = np.clip(predicted, 1e-15, 1 - 1e-15)
    return float(-np.mean((shares * np.log(sure) + (1 - shares) * np.log(1 - sure)) * weights))
