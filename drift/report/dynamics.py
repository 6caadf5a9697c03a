"""The labels and the order of the metrics of optimiser steps, in the report and in W&B.

An objective's metrics need no entry here: metrics without a label are plotted under their own name, parts of the loss beside it.
"""

from collections.abc import Iterable, Mapping, Sequence

Steps = Mapping[str, Sequence[Sequence[Mapping[str, float]]]]  # group label -> per seed, the metrics of every step
AXES = ("iteration", "step")
MAX_PLOTS = 60  # metrics that are plotted
LOSS = "loss_"  # prefix of the names of the objectives' parts of the loss

LABELS = {
    "loss": "loss",
    "dpo": "DPO loss",
    "margin": "reward margin",
    "accuracy": "accuracy",
    "reward_chosen": "reward, chosen",
    "reward_rejected": "reward, rejected",
    "sigma": "sigma(-margin)",
    "chosen_shift": "chosen_shift (nats a token)",
    "logp_chosen": "log p, chosen (nats)",
    "logp_rejected": "log p, rejected (nats)",
    "entropy": "entropy (nats)",
    "chosen_tokens": "length, chosen (tokens)",
    "rejected_tokens": "length, rejected (tokens)",
    "grad_norm": "gradient norm",
    "dpo_norm": "gradient norm, preference part",
    "dpo_pair_norm": "gradient norm of single pairs",
    "learning_rate": "learning rate",
}
NOTES = {
    "chosen_shift": "chosen_shift: mean log-probability of a token of the chosen replies, relative to the reference",
}


def in_order(names: Iterable[str]) -> list[str]:
    """The metrics in the order in which they are plotted: the loss and its parts, those with a label, then the others."""
    known = list(dict.fromkeys(name for name in names if name not in AXES))
    parts = [name for name in known if name.startswith(LOSS) and name not in LABELS]
    others = [name for name in known if name not in LABELS and name not in parts]
    labelled = [name for name in LABELS if name in known]
    first = [name for name in labelled if name == "loss"]
    return [*first, *parts, *labelled[len(first) :], *others]


def drawn(lines: Steps) -> list[str]:
    """The metrics that any step of any run has; only the first MAX_PLOTS, because a file from elsewhere may have very many."""
    return in_order(name for seeds in lines.values() for steps in seeds for step in steps for name in step)[:MAX_PLOTS]


def label(name: str) -> str:
    return LABELS.get(name, name)


def notes(lines: Steps) -> list[str]:
    """Sentences on metrics that need more than a label."""
    return [text for name, text in NOTES.items() if name in drawn(lines)]
