"""A measured quantity, as it is stored in scores.json."""

from typing import Any

from drift.finite import need_finite

ADVICE = "Check the weights of the policy, or compute in train.precision=float32."


def metric(per_item: dict[str, float] | None, *, value: float | None = None, digits: int = 3) -> dict[str, Any]:
    """`value` is the mean over the items unless it is given; paired intervals need `per_item`. Refuses NaN and infinity."""
    need_finite({f"the score of {item}": score for item, score in (per_item or {}).items()}, "Evaluation", ADVICE)
    if value is None and per_item:
        value = sum(per_item.values()) / len(per_item)
    need_finite({} if value is None else {"the score": value}, "Evaluation", ADVICE)
    return {"value": value, "per_item": per_item, "digits": digits}
