"""Which records a run can train on, given its model: rows that are too long or can't be rendered are set aside, by name."""

from collections.abc import Sequence
from typing import Any

from drift.records import Record


def usable(
    records: Sequence[Record], tokenizer: Any, *, max_tokens: int, max_new_tokens: int
) -> tuple[list[Record], list[dict[str, Any]]]:
    """(records to use, rows set aside). A record fits if its prompt leaves room in `max_tokens` for its own reply and for a
    fresh one of `max_new_tokens`: nothing is ever cut, so no feedback, instruction or end-of-turn token is lost."""
    from drift.model.chat import NotAPrefix, prompt_ids, reply_ids

    kept: list[Record] = []
    aside: list[dict[str, Any]] = []
    for record in records:
        row = {
            "record": record.id,
            "field": "reply",
            "expected": "text that the chat template renders after the prompt",
        }
        if not record.reply.strip():
            aside.append(row | {"reason": "empty reply"})
            continue
        try:
            prompt = prompt_ids(tokenizer, record.prompt)
            reply = reply_ids(tokenizer, record.prompt, record.reply, ended=record.ended)
        except NotAPrefix as error:
            aside.append(row | {"reason": "not renderable", "found": str(error)})
            continue
        needed = len(prompt) + max(len(reply), max_new_tokens)
        if needed > max_tokens:
            what = {
                "field": "prompt",
                "expected": f"at most train.max_tokens={max_tokens} tokens",
                "found": f"{needed} tokens",
            }
            aside.append(row | what | {"reason": "too long"})
            continue
        kept.append(record)
    return kept, aside
