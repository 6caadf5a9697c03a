"""Replies that are known as text, as token ids."""

from collections.abc import Sequence
from typing import Any

from drift.records import Prompt
from drift.score.sequence import TokenSequence


def render_replies(tokenizer: Any, texts: Sequence[tuple[Prompt, str, bool]]) -> dict[int, TokenSequence]:
    """Index -> token ids, for the texts that the chat template can render to at least one token."""
    from drift.model.chat import NotAPrefix, prompt_ids, reply_ids

    sequences = {}
    for i, (prompt, text, ended) in enumerate(texts):
        try:
            sequence = TokenSequence(prompt=prompt_ids(tokenizer, prompt), reply=reply_ids(tokenizer, prompt, text, ended=ended))
        except NotAPrefix:  # the template would change the reply
            continue
        if sequence.reply:
            sequences[i] = sequence
    return sequences
