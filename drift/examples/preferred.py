"""Keeps a fresh chosen reply only if a judge prefers it to the logged reply that the user disliked. RLHI (arXiv 2509.25137) found
such a filter to be essential for rewritten replies."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from drift.parts import Ask, Judge
from drift.records import Example, Record, Reply

Ruled = tuple[Example | None, str | None, list[str]]  # a candidate, the rule that removes it, and what else is counted about it


def preferred(judge: Judge, examples: Sequence[Example], ask: Ask, records: Mapping[str, Record]) -> list[Ruled]:
    """The examples without the fresh chosen replies that do not beat the reply that the user disliked; removed where none is left.
    An example without a fresh chosen reply, or from a record whose user did not complain, stays as it is. `records`: by id."""
    asked = {i: _asked(one, records[one.record]) for i, one in enumerate(examples) if _is_asked(one, records[one.record])}
    judged = ask.judge(judge, [item for items in asked.values() for item in items], label="judging")
    won = {(record.id, fresh.text): score > other for record, (fresh, _), (score, other) in judged}
    ruled: list[Ruled] = []
    for i, one in enumerate(examples):
        if i in asked:
            ruled.append(_without_losers(one, [won.get((record.id, fresh.text)) for record, (fresh, _) in asked[i]]))
        else:
            ruled.append((one, None, []))
    return ruled


def _is_asked(one: Example, record: Record) -> bool:
    return record.label == "dsat" and any(reply.fresh for reply in one.side(True))


def _asked(one: Example, record: Record) -> list[tuple[Record, list[Reply]]]:
    """Items for the judge: each fresh chosen reply beside the disliked one. So they are compared with that one only, and not with
    one another. (Judges do not look at `num_tokens`.)"""
    disliked = Reply(text=record.reply, num_tokens=0, ended=record.ended)
    fresh = [Reply(text=reply.text, num_tokens=0, ended=reply.ended) for reply in one.side(True) if reply.fresh]
    return [(record, [reply, disliked]) for reply in fresh]


def _without_losers(one: Example, won: Sequence[bool | None]) -> Ruled:
    """`won`: for each fresh chosen reply, whether it is preferred to the disliked one; None: the judge can't say."""
    if None in won:
        return one, "unjudged", []
    verdicts = iter(won)
    left = tuple(reply for reply in one.replies if not (reply.good and reply.fresh) or next(verdicts))
    if not any(reply.good for reply in left):
        return one, "disfavoured", []
    return replace(one, replies=left), None, ["thinned"] * (len(left) < len(one.replies))
