"""Arena-Hard's win rates under style control: what they would be if all models wrote in the same style.

A Bradley-Terry model in which four style differences between a reply and the baseline's count, too: length in tokens (o200k_base),
and Markdown headers, list items and bold words per token. They are standardised over all battles of the table, so the figure of a
model depends on the other models in it, and a table of a single model controls nothing: it is compared at its own average style.

The published figures are medians over 100 unseeded resamples of single verdicts, with an interval of 90 %, and their optimiser
stops after 50 steps, up to half a point early. These are the fit itself, with an interval of 95 % over seeded resamples of prompts,
the same prompts for all models."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from drift.errors import UserError, need_package

ROUNDS, SEED = 200, 0
CODE = re.compile(r"```[^`]*```")
HEADERS = re.compile(r"^#{1,6}\s", re.MULTILINE)
ITEMS = (re.compile(r"^\s*\d+\.\s", re.MULTILINE), re.compile(r"^\s*[-*+]\s", re.MULTILINE))
BOLD = (re.compile(r"\*\*[^*\n]+\*\*"), re.compile(r"__[^_\n]+__"))


@dataclass(frozen=True, kw_only=True)
class Fought:
    """A judged prompt. `outcomes`: what counts for the win rate; `style`: (4,) style differences from the baseline's reply."""

    key: str
    outcomes: Sequence[float]
    style: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """A win rate in percent with its 95 % interval."""

    win_rate: float
    low: float
    high: float


def styles(texts: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """(tokens, headers, list items, bold words) of each text; Markdown inside code blocks does not count."""
    encoding, found = tokenizer(), []
    for text in texts:
        prose = text
        for block in CODE.findall(text):
            prose = prose.replace(block, "")
        counts = (sum(len(part.findall(prose)) for part in parts) for parts in ((HEADERS,), ITEMS, BOLD))
        found.append((len(encoding.encode(text, disallowed_special=())), *counts))
    return found


@cache
def tokenizer() -> Any:
    need_package("bpe_openai", "Arena-Hard's style control", extra="benchmarks")
    import bpe_openai  # pyright: ignore[reportMissingImports]

    return bpe_openai.get_encoding("o200k_base")


def style_controlled(table: Mapping[str, Sequence[Fought]]) -> dict[str, Controlled]:
    """Model -> its win rate. `table`: model -> its judged prompts."""
    import numpy as np

    models = list(table)
    fought = [(number, one) for number, name in enumerate(models) for one in table[name]]
    if not fought:
        raise UserError("Arena-Hard: no model of the table has a prompt with two verdicts.")
    counts = np.asarray([len(one.outcomes) for _, one in fought], dtype=float)
    wins = np.asarray([sum(one.outcomes) for _, one in fought]) / counts
    model = np.asarray([number for number, _ in fought])
    styles = standardised(np.asarray([one.style for _, one in fought]), counts)
    inputs = np.hstack([np.eye(len(models))[model], styles])
    keys = {key: i for i, key in enumerate(dict.fromkeys(one.key for _, one in fought))}
    prompt = np.asarray([keys[one.key] for _, one in fought])
    rates = 100 * fit(inputs, wins, counts)[: len(models)]
    order, drawn = np.random.default_rng(SEED), []
    for _ in range(ROUNDS):
        times = np.bincount(order.integers(0, len(keys), len(keys)), minlength=len(keys)).astype(float)
        drawn.append(100 * fit(inputs, wins, times[prompt] * counts)[: len(models)])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return {name: Controlled(win_rate=float(rates[i]), low=float(low[i]), high=float(high[i])) for i, name in enumerate(models)}


def style_differences(own: Sequence[tuple[int, ...]], baseline: Sequence[tuple[int, ...]]) -> Any:
    """(n, 4): relative difference in length; differences of headers, list items and bold words per token, relative to their
    sum + 1."""
    import numpy as np

    mine, theirs = np.asarray(own, dtype=float), np.asarray(baseline, dtype=float)
    length = (mine[:, :1] - theirs[:, :1]) / np.maximum(mine[:, :1] + theirs[:, :1], 1)
    density, other = mine[:, 1:] / (mine[:, :1] + 1), theirs[:, 1:] / (theirs[:, :1] + 1)
    return np.hstack([length, (density - other) / (density + other + 1)])


def standardised(values: Any, counts: Any) -> Any:
    """(n, k) with mean 0 and standard deviation 1 over all outcomes, of which each row has (n,) `counts`; a column without spread
    becomes 0."""
    import numpy as np

    repeated = np.repeat(values, counts.astype(int), axis=0)
    spread = repeated.std(axis=0, ddof=1)
    return (values - repeated.mean(axis=0)) / (spread + (spread == 0))


def fit(inputs: Any, wins: Any, weights: Any) -> Any:
    """(k,) probabilities of a win for a unit of each input alone: the logistic regression of wins, without intercept. inputs:
    (n, k); wins: (n,) shares of wins, from 0 to 1; weights: (n,)."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(coefficients: Any) -> tuple[float, Any]:
        logits = inputs @ coefficients
        slope = weights * (expit(logits) - wins)
        return float((weights * (np.logaddexp(0, logits) - wins * logits)).sum()), inputs.T @ slope

    return expit(minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-8}).x)
