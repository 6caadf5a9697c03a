"""Step 2 of the miner: a linear classifier over `features.py`, fitted on turns that were labelled by a guideline
(experiments/miner).

Two logistic regressions give the probabilities of DSAT and SAT, calibrated to random turns of ShareGPT; a third gives the category
of a complaint. Only their weights ship, in `classifier.safetensors`; experiments/miner/README.md says how they were fitted and how
accurate they are."""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from drift.errors import UserError, need_package
from drift.intake.conversations import CATEGORIES, Label, Opinion
from drift.mine import features, rules
from drift.mine.unread import count_unread
from drift.records import Message

VERSION = 2
FILE = Path(__file__).with_suffix(".safetensors")
HEADS = ("dsat", "sat", *CATEGORIES)
VERDICTS = ("factual", "quality", "negative")  # complaints that say what a reply is like, and not what is wanted instead
BESIDE = re.compile(r"\W*((answer|reply|response)\W*)?")
MEASURED_FROM = {"dsat": 0.68, "sat": 0.40}  # the thresholds of conf/mine/classifier.yaml, at which precision was measured
MEASURED = {"dsat": ".93 [.88, .97]", "sat": ".98 [.94, 1.00]"}  # experiments/miner


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """`dsat_threshold`, `sat_threshold`: the probability from which on a reply counts as DSAT or SAT. `counts`: what a report
    should mention."""

    dsat_threshold: float
    sat_threshold: float
    counts: Counter[str] = field(default_factory=Counter, init=False, compare=False)

    def check(self) -> None:
        for name in ("dsat_threshold", "sat_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"mine.{name}={getattr(self, name)}: expected between 0 and 1.")

    def check_packages(self) -> None:
        need_package("sklearn", "mine=classifier", extra="logs")

    def key(self) -> dict[str, Any]:
        from drift.files import hash_file

        versions = [VERSION, rules.VERSION, features.VERSION, hash_file(FILE)]
        return {"miner": "classifier", "versions": versions, "thresholds": [self.dsat_threshold, self.sat_threshold]}

    def classify(self, conversations: list[list[Message]]) -> list[dict[int, Opinion]]:
        """For each conversation, an opinion of every reply that a user turn follows, by the reply's index."""
        count_unread([[rules.turn(talk, i)[2] for i in rules.replies(talk)] for talk in conversations], self.counts)
        places = [(number, i) for number, messages in enumerate(conversations) for i in rules.replies(messages)]
        result: list[dict[int, Opinion]] = [{} for _ in conversations]
        if places:
            readings = [features.Reading(rules.turn(conversations[number], i)) for number, i in places]
            for (number, i), reading, scores in zip(places, readings, probabilities(readings), strict=True):
                result[number][i] = self.opinion(reading, scores)
        return result

    def opinion(self, reading: features.Reading, scores: dict[str, float]) -> Opinion:
        displeased, pleased = scores["dsat"] >= self.dsat_threshold, scores["sat"] >= self.sat_threshold
        by_rule = reading.by_rule
        if pleased and not displeased and (by_rule.category is not None or rules.taken_back(reading.said)):
            return by_rule  # "thanks for nothing": words of praise, but no praise
        label: Label = "both" if displeased and pleased else "dsat" if displeased else "sat" if pleased else "none"
        confidence = {
            "dsat": scores["dsat"], "sat": scores["sat"], "both": min(scores["dsat"], scores["sat"]),
            "none": 1 - max(scores["dsat"], scores["sat"]),
        }[label]  # fmt: skip
        if label == "none" and is_verdict(reading):
            return by_rule  # "useless": hardly any of the turns that the weights come from is so short
        if label == "none":
            return Opinion(label=label, category=None, confidence=confidence, detector="classifier", evidence=None)
        category = (by_rule.category or max(CATEGORIES, key=scores.__getitem__)) if displeased else None
        evidence = by_rule.evidence if by_rule.label == label else evidence_of(reading, "dsat" if displeased else "sat")
        return Opinion(label=label, category=category, confidence=confidence, detector="classifier", evidence=evidence)


def is_verdict(reading: features.Reading) -> bool:
    """Whether a turn is a verdict by the rules and nothing else ("useless", "wrong answer", 👎). Where the reply asks something, as
    a quiz does, "false" may be the answer."""
    found = reading.by_rule
    if found.category not in VERDICTS or found.evidence is None or reading.reply.endswith("?"):
        return False
    before, _, after = rules.plain(" ".join(reading.said.split())).partition(found.evidence)
    return not re.search(r"\w", before) and BESIDE.fullmatch(after) is not None


def probabilities(readings: list[features.Reading]) -> list[dict[str, float]]:
    """For each turn, the probabilities of "dsat" and "sat", and a score for each category (the highest one counts)."""
    import numpy as np

    fitted = weights()
    raw = features.matrix(readings) @ fitted["dense"] + fitted["intercepts"]  # (N, heads)
    raw[:, :2] = 1 / (1 + np.exp(-(raw[:, :2] * fitted["calibration"][:, 0] + fitted["calibration"][:, 1])))
    return [dict(zip(HEADS, map(float, row), strict=True)) for row in raw]


def evidence_of(reading: features.Reading, head: str) -> str | None:
    """The words of a turn with the highest weight."""
    grams = [gram for gram in features.grams(reading.words) if not gram.startswith("^")]
    if not grams:
        return None
    weight = weights()["dense"][features.columns(grams), HEADS.index(head)]
    return grams[int(weight.argmax())] if weight.max() > 0 else None


@cache
def weights() -> dict[str, Any]:
    """`columns` of the feature matrix with a weight, `weights` (heads, columns), `intercepts` (heads), `calibration` (2, 2): slope
    and offset of the first two heads. `dense`: the weights for all columns of the feature matrix (columns, heads)."""
    import numpy as np
    from safetensors.numpy import load_file

    fitted: dict[str, Any] = {
        name: array if name == "columns" else array.astype(np.float32) for name, array in load_file(FILE).items()
    }
    fitted["dense"] = np.zeros((features.HASHES + len(features.FACTS), len(HEADS)), np.float32)
    fitted["dense"][fitted["columns"]] = fitted["weights"].T
    return fitted
