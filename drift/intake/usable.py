"""Which records a run can train on, given its model: records that are too long or can't be rendered are set aside with a reason."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drift.records import Record


def usable(
    records: Sequence[Record], tokenizer: Any, *, max_tokens: int, max_new_tokens: int
) -> tuple[list[Record], list[dict[str, Any]]]:
    """(usable records, rows set aside). A record fits if its prompt leaves room in `max_tokens` for its own reply and for a fresh
    one of `max_new_tokens`. Nothing is ever truncated, so no feedback, instruction or end-of-turn token is lost."""
    from drift.model.chat import NotAPrefix, prompt_ids, reply_ids

    kept: list[Record] = []
    aside: list[dict[str, Any]] = []

    def length(record: Record, reply: str, ended: bool) -> int:
        return len(reply_ids(tokenizer, record.prompt, reply, ended=ended))

    for record in records:
        row = {"record": record.id, "field": "reply", "expected": "text that the chat template renders after the prompt"}
        fit = {"expected": f"at most train.max_tokens={max_tokens} tokens"}
        if not record.reply.strip():
            aside.append(row | {"reason": "empty reply"})
            continue
        try:
            prompt = len(prompt_ids(tokenizer, record.prompt))
            needed = prompt + max(max_new_tokens, length(record, record.reply, record.ended))
            revised = prompt + length(record, record.revised, True) if record.revised else 0
        except NotAPrefix as error:
            aside.append(row | {"reason": "not renderable", "found": str(error)})
            continue
        if needed > max_tokens:
            aside.append(row | fit | {"field": "prompt", "found": f"{needed} tokens", "reason": "too long"})
            continue
        if revised > max_tokens:  # the record is kept without its second answer
            aside.append(row | fit | {"field": "revised", "found": f"{revised} tokens", "reason": "second answer too long"})
            record = replace(record, revised=None, satisfied=False)
        kept.append(record)
    return kept, aside
