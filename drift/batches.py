"""Splits items into batches by size."""

from collections.abc import Sequence


def cut(items: Sequence[int], sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Consecutive batches with a total size of at most `limit`; a larger item is a batch by itself."""
    batches: list[list[int]] = []
    used = 0
    for item, size in zip(items, sizes, strict=True):
        if not batches or used + size > limit:
            batches.append([])
            used = 0
        batches[-1].append(item)
        used += size
    return batches
