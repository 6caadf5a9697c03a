"""What is measured once for all methods: the gradients of fresh replies, directions in them, and the truth where it is known."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drift.engine.ask import Ask
from drift.records import Record, Reply
from drift.signal.gradients import SIZE, Gradients
from drift.signal.replies import Drawn, verdicts
from drift.signal.truth import Truth, truth


@dataclass(frozen=True, kw_only=True)
class Known:
    """`records`: by id. `drawn`: the fresh replies; `fresh`: their gradients, a `figures.Fresh`. `splits`: from `figures.halves`.
    `places`: prompt -> its index among those of `drawn`. `truth`: None if the data set does not know it. `contrast`: the length of
    the good-over-bad gradient without its noise, or None."""

    ask: Ask
    gradients: Gradients
    records: dict[str, Record]
    drawn: Sequence[Drawn]
    fresh: Any
    splits: Sequence[Any]
    places: dict[str, int]
    truth: Truth | None
    contrast: float | None


def directions(
    ask: Ask, gradients: Gradients, records: Sequence[Record], drawn: Sequence[Drawn], num_splits: int, knows_truth: bool
) -> Known:
    """Asks for the gradients of the fresh replies, and estimates on them."""
    import numpy as np

    from drift.signal import figures

    columns = zip(*(one.sequences for one in drawn), strict=True)  # a column has a reply to every prompt
    index = np.array([gradients.add(column, "fresh replies") for column in columns]).T  # (P, K)
    good, known = None, None
    if knows_truth:
        found = verdicts(ask, [(one.record, one.replies) for one in drawn])
        good, known = np.array(found), truth(found, logged_verdicts(ask, records))
    fresh = figures.Fresh(vectors=gradients.matrix()[index], lengths=np.array(gradients.lengths)[index], good=good)
    splits = figures.halves(fresh, num_splits)
    return Known(
        ask=ask, gradients=gradients, records={record.id: record for record in records}, drawn=drawn, fresh=fresh, splits=splits,
        places={one.prompt: i for i, one in enumerate(drawn)}, truth=known, contrast=figures.length(splits, "good"),
    )  # fmt: skip


def logged_verdicts(ask: Ask, records: Sequence[Record]) -> dict[str, list[float]]:
    """Label -> 1 for each good reply in the log with this label, 0 for each bad one."""
    replies = [Reply(text=record.reply, num_tokens=0, ended=record.ended) for record in records]
    by_label: dict[str, list[float]] = {}
    for record, (verdict,) in zip(records, verdicts(ask, zip(records, [[reply] for reply in replies], strict=True)), strict=True):
        by_label.setdefault(record.label, []).append(verdict)
    return by_label


def summary(known: Known, num_splits: int) -> dict[str, Any]:
    """The part of signal.json that all methods have in common."""
    import numpy as np

    from drift.signal import figures

    vectors, exact = known.gradients.matrix(), np.array(known.gradients.squares)
    kept = np.square(vectors, dtype=float).sum(axis=1)
    fresh = {
        "prompts": len(known.drawn), "replies_per_prompt": int(known.fresh.lengths.shape[1]),
        "mean_tokens": float(known.fresh.lengths.mean()), "splits": num_splits,
    }  # fmt: skip
    projection = {
        "numbers": SIZE, "weights": known.gradients.trained, "replies": len(exact),
        "norm_error": float(np.sqrt(np.mean(np.square(np.sqrt(kept / np.where(exact > 0, exact, 1)) - 1)[exact > 0]))),
    }  # fmt: skip
    labels = Counter(record.label for record in known.records.values())
    found: dict[str, Any] = {"log": {"records": len(known.records)} | dict(sorted(labels.items())), "fresh": fresh}
    if known.truth is not None:
        one = known.truth
        wrong = {label: share if label == "dsat" else 1 - share for label, share in one.logged.items() if label in ("dsat", "sat")}
        found["truth"] = {
            "p": one.p, "spread": one.spread, "a": one.a, "b": one.b, "good_share_of_label": dict(one.logged),
            "wrong_share_of_label": wrong, "contrast": known.contrast,
            "shorter": figures.alignment(known.splits),
        }  # fmt: skip
    return found | {"projection": projection}
