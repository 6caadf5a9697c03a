"""What is measured on the sampled replies of every evaluation: length, word pairs that repeat, missing ends, copies, perplexity.

A collapse shows in these first. `drawn`: what `Ask` yields, items (anything with a `key` and a `prompt`) with their replies.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drift.data.requests import words
from drift.evaluation.metric import metric
from drift.parts import Ask
from drift.records import Record, Reply

Drawn = Sequence[tuple[Any, list[Reply]]]
MEANINGS = {
    "words": "words a reply",
    "distinct-2": "share of different word pairs among all word pairs of the replies; it falls where they repeat themselves",
    "missing ends": "share of replies that the length limit (sampler.max_new_tokens) cut off",
    "copies": "share of replies that repeat, word for word, the logged reply or the one to another prompt",
    "perplexity under start": "how surprising the replies are to the start model; low: predictable, high: unlike what it says",
}


def measure(ask: Ask, drawn: Drawn, num_perplexity_prompts: int) -> dict[str, Any]:
    """The metrics of MEANINGS, perplexity on so many of the items."""
    return of_replies(drawn, perplexity(ask, drawn[:num_perplexity_prompts]))


def of_replies(drawn: Drawn, perplexity: float | None) -> dict[str, Any]:
    replies = {item.key: replies for item, replies in drawn}
    return {
        "words": metric(means(replies, lambda reply: len(words(reply.text))), digits=1),
        "distinct-2": metric(None, value=distinct2([reply.text for of in replies.values() for reply in of])),
        "missing ends": metric(means(replies, lambda reply: not reply.ended)),
        "copies": metric(copies(drawn)),
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


def copies(drawn: Drawn) -> dict[str, float]:
    """Item -> share of its replies that equal, word for word, the logged reply to the same prompt or a fresh one to another."""
    said = {item.key: [" ".join(words(reply.text)).lower() for reply in of] for item, of in drawn}
    asked = Counter(text for texts in said.values() for text in set(texts))
    logged = {item.key: " ".join(words(item.reply)).lower() for item, _ in drawn if isinstance(item, Record)}
    return {
        key: sum(bool(text) and (asked[text] > 1 or text == logged.get(key)) for text in texts) / len(texts)
        for key, texts in said.items()
    }


def perplexity(ask: Ask, drawn: Drawn) -> float | None:
    """Of the first reply to every item under the start model, over all their tokens; None without any text."""
    texts = [(item.prompt, reply.text, reply.ended) for item, (reply, *_) in drawn if reply.text]
    found = [one for one in ask.logprobs(texts, of="start", label="perplexity under the start model") if one is not None]
    return math.exp(-sum(one.nats for one in found) / sum(one.num_tokens for one in found)) if found else None
