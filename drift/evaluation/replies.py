"""What is measured on sampled replies, whatever the prompts are: length, word pairs that repeat, missing ends, perplexity.

A collapse shows in these first. `drawn`: what `Ask` yields, items (anything with a `key` and a `prompt`) with their replies.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drift.data.requests import words
from drift.evaluation.metric import metric
from drift.model.policy import Policy, load_tokenizer
from drift.records import Reply

Drawn = Sequence[tuple[Any, list[Reply]]]
MEANINGS = {
    "words": "words a reply",
    "distinct-2": "share of different word pairs among all word pairs of the replies; it falls where they repeat themselves",
    "missing ends": "share of replies that the length limit (sampler.max_new_tokens) cut off",
    "perplexity under start": "how surprising the replies are to the start model; low: predictable, high: unlike what it says",
}


def measure(drawn: Drawn, perplexity: float | None) -> dict[str, Any]:
    """The metrics of MEANINGS."""
    replies = {item.key: replies for item, replies in drawn}
    return {
        "words": metric(means(replies, lambda reply: len(words(reply.text))), digits=1),
        "distinct-2": metric(None, value=distinct2([reply.text for of in replies.values() for reply in of])),
        "missing ends": metric(means(replies, lambda reply: not reply.ended)),
        "perplexity under start": metric(None, value=perplexity, digits=1),
    }


def means(values: Mapping[str, Sequence[Any]], of: Callable[[Any], Any]) -> dict[str, float]:
    """Item -> mean over its replies."""
    return {key: sum(float(of(value)) for value in row) / len(row) for key, row in values.items()}


def distinct2(texts: Sequence[str]) -> float:
    """Share of different word pairs among all word pairs of the texts (arXiv 1510.03055)."""
    lowered = [[word.lower() for word in words(text)] for text in texts]
    pairs = [pair for found in lowered for pair in zip(found, found[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def perplexity(drawn: Drawn, train: Any, start: Policy) -> float | None:
    """Of the first reply to every item under the start model, over all their tokens; None without any text."""
    from drift.model.chat import NotAPrefix, prompt_ids, reply_ids
    from drift.score.plan import Row
    from drift.score.reference import score_rows

    tokenizer, rows = load_tokenizer(start), list[Row]()
    for item, (reply, *_) in drawn:
        if not reply.text:
            continue
        try:
            row = Row(
                prompt=prompt_ids(tokenizer, item.prompt),
                reply=reply_ids(tokenizer, item.prompt, reply.text, ended=reply.ended),
            )
        except NotAPrefix:  # a reply that the template would rewrite is not what the policy said
            continue
        rows += [row] if row.reply else []
    if not rows:
        return None
    sums = score_rows(train, start, rows, "perplexity under the start model")
    return math.exp(-sum(sums) / sum(len(row.reply) for row in rows))
