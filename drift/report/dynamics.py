"""What the metrics of optimiser steps are called and in which order they are drawn, in the report and in W&B.

An objective's metrics draw themselves: what is not named here comes under its own name, losses beside the loss.
"""

from collections.abc import Iterable, Mapping, Sequence

Steps = Mapping[str, Sequence[Sequence[Mapping[str, float]]]]  # label -> per seed, the metrics of every step
AXES = ("iteration", "step")
MOST = 60  # metrics that are drawn
LOSS = "loss_"  # begins the name of an objective's share of the loss

LABELS = {
    "loss": "loss",
    "dpo": "DPO loss",
    "margin": "reward margin",
    "accuracy": "accuracy",
    "reward_chosen": "reward, chosen",
    "reward_rejected": "reward, rejected",
    "sigma": "sigma(-margin)",
    "chosen_shift": "chosen_shift (nats a token)",
    "off": "mean |log-ratio| of a reply (nats)",
    "logp_chosen": "log p, chosen (nats)",
    "logp_rejected": "log p, rejected (nats)",
    "entropy": "entropy (nats)",
    "chosen_tokens": "length, chosen (tokens)",
    "rejected_tokens": "length, rejected (tokens)",
    "grad_norm": "gradient norm",
    "dpo_norm": "gradient norm, preference part",
    "dpo_pair_norm": "the same of single pairs",
    "learning_rate": "learning rate",
}
NOTES = {
    "chosen_shift": "chosen_shift: log-probability of a token of the chosen replies, against the reference",
}


def in_order(names: Iterable[str]) -> list[str]:
    """The metrics as they are drawn: the loss and its parts, those with a label, then the others."""
    known = list(dict.fromkeys(name for name in names if name not in AXES))
    parts = [name for name in known if name.startswith(LOSS) and name not in LABELS]
    others = [name for name in known if name not in LABELS and name not in parts]
    labelled = [name for name in LABELS if name in known]
    first = [name for name in labelled if name == "loss"]
    return [*first, *parts, *labelled[len(first) :], *others]


def drawn(lines: Steps) -> list[str]:
    """The metrics that any step of any run has; the first of them, if somebody sent a file with very many."""
    return in_order(name for seeds in lines.values() for rows in seeds for row in rows for name in row)[:MOST]


def label(name: str) -> str:
    return LABELS.get(name, name)


def notes(lines: Steps) -> list[str]:
    """What the metrics mean whose labels can't say it."""
    return [text for name, text in NOTES.items() if name in drawn(lines)]
