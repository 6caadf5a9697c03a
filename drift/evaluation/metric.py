"""One measured quantity, as it stands in scores.json."""

from typing import Any


def metric(per_item: dict[str, float] | None, *, value: float | None = None, digits: int = 3) -> dict[str, Any]:
    """`value` is the mean over the items unless given; `per_item` is what paired intervals are made of."""
    if value is None and per_item:
        value = sum(per_item.values()) / len(per_item)
    return {"value": value, "per_item": per_item, "digits": digits}
