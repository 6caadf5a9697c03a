"""What an evaluation measures: metrics, as they are stored in scores.json, and the replies behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drift.finite import need_finite
from drift.records import Reply

ADVICE = "Check the weights of the policy, or compute in train.precision=float32."


def metric(per_item: dict[str, float] | None, *, value: float | None = None, digits: int = 3) -> dict[str, Any]:
    """`value` is the mean over the items unless it is given; paired intervals need `per_item`. Refuses NaN and infinity."""
    need_finite({f"the score of {item}": score for item, score in (per_item or {}).items()}, "Evaluation", ADVICE)
    if value is None and per_item:
        value = sum(per_item.values()) / len(per_item)
    need_finite({} if value is None else {"the score": value}, "Evaluation", ADVICE)
    return {"value": value, "per_item": per_item, "digits": digits}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an evaluation measured on a policy. `metrics`: name -> `metric(...)`; `headline`: the metric
    that is compared. `drawn`: the fresh replies, if any, of items with a `key` and a `prompt`; length, word pairs, missing ends,
    copies and perplexity are measured on them (drift/evaluation/replies.py) and raise alarms. `rows`: the lines of replies.jsonl.
    `conversations`: item -> conversation, where the items of one conversation count as one in intervals."""

    headline: str
    metrics: dict[str, Any]
    drawn: Sequence[tuple[Any, list[Reply]]]
    rows: Sequence[Mapping[str, Any]]
    conversations: Mapping[str, str]
