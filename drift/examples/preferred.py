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
    judged = ask.judge(judge, asked.values(), label="judging")
    scores = {(record.id, *(reply.text for reply in replies)): found for record, replies, found in judged}
    ruled: list[Ruled] = []
    for i, one in enumerate(examples):
        if i not in asked:
            ruled.append((one, None, []))
            continue
        record, replies = asked[i]
        ruled.append(_without_losers(one, scores.get((record.id, *(reply.text for reply in replies)))))
    return ruled


def _is_asked(one: Example, record: Record) -> bool:
    return record.label == "dsat" and any(reply.fresh for reply in one.side(True))


def _asked(one: Example, record: Record) -> tuple[Record, list[Reply]]:
    """An item for the judge: the fresh chosen replies, and last the disliked one. (Judges do not look at `num_tokens`.)"""
    fresh = [Reply(text=reply.text, num_tokens=0, ended=reply.ended) for reply in one.side(True) if reply.fresh]
    return record, [*fresh, Reply(text=record.reply, num_tokens=0, ended=record.ended)]


def _without_losers(one: Example, scores: list[float] | None) -> Ruled:
    """`scores`: those of `_asked`; None: the judge has none."""
    if scores is None:
        return one, "unjudged", []
    *fresh, disliked = scores
    won = iter([score > disliked for score in fresh])
    left = tuple(reply for reply in one.replies if not (reply.good and reply.fresh) or next(won))
    if not any(reply.good for reply in left):
        return one, "disfavoured", []
    return replace(one, replies=left), None, ["thinned"] * (len(left) < len(one.replies))
