"""Splits items into batches by size."""

from collections.abc import Sequence


def cut(items: Sequence[int], sizes: Sequence[int], limit: int, *, padded: bool = False) -> list[list[int]]:
    """Consecutive batches with a total size of at most `limit`; a larger item is a batch by itself. `padded`: every item takes as
    much as the largest of its batch."""
    batches: list[list[int]] = []
    used = largest = 0
    for item, size in zip(items, sizes, strict=True):
        taken = (len(batches[-1]) + 1) * max(largest, size) if padded and batches else used + size
        if not batches or taken > limit:
            batches.append([])
            taken, largest = size, 0
        batches[-1].append(item)
        used, largest = taken, max(largest, size)
    return batches


def deal(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Divides items among so many parts: the indices of each part's items, ascending. The largest items are dealt first, to the
    parts in order and then in reverse, so that counts differ by one at most and total sizes by little."""
    ordered = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    rounds = [ordered[low : low + parts] for low in range(0, len(ordered), parts)]
    places = [range(parts), range(parts - 1, -1, -1)]
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for number, items in enumerate(rounds):
        for part, item in zip(places[number % 2], items, strict=False):
            dealt[part].append(item)
    return [sorted(items) for items in dealt]


def slices(sizes: Sequence[int], parts: int) -> list[range]:
    """Divides items among so many parts in the given order, with about the same total size each; a part may be empty."""
    ends, done, total = [0], 0, sum(sizes)
    for i, size in enumerate(sizes):
        while len(ends) < parts and done + size / 2 > total * len(ends) / parts:
            ends.append(i)
        done += size
    ends += [len(sizes)] * (parts + 1 - len(ends))
    return [range(low, high) for low, high in zip(ends[:-1], ends[1:], strict=True)]
