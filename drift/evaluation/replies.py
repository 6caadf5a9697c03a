"""Metrics of the fresh replies of every evaluation: length, repeated word pairs, missing ends, copies, perplexity.

A collapse shows first in these. `drawn`: items (anything with a `key` and a `prompt`) with their replies, as from `Ask.draw`.
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
    "words": "mean number of words in a reply",
    "distinct-2": "share of different word pairs among all word pairs of the replies; it falls if they repeat themselves",
    "missing ends": "share of replies that the length limit (sampler.max_new_tokens) cut off",
    "copies": "share of replies that repeat, word for word, the logged reply or the reply to another prompt",
    "perplexity under start": "how surprising the replies are to the start model; low: predictable, high: unlike its own replies",
}


def measure(ask: Ask, drawn: Drawn, num_perplexity_prompts: int) -> dict[str, Any]:
    """The metrics in MEANINGS; perplexity is measured on the first `num_perplexity_prompts` items."""
    return of_replies(drawn, perplexity(ask, drawn[:num_perplexity_prompts]))


def of_replies(drawn: Drawn, perplexity: float | None) -> dict[str, Any]:
    """The metrics in MEANINGS, given the perplexity."""
    by_item = {item.key: replies for item, replies in drawn}
    return {
        "words": metric(means(by_item, lambda reply: len(words(reply.text))), digits=1),
        "distinct-2": metric(None, value=distinct2([reply.text for replies in by_item.values() for reply in replies])),
        "missing ends": metric(means(by_item, lambda reply: not reply.ended)),
        "copies": metric(copies(drawn)),
        "perplexity under start": metric(None, value=perplexity, digits=1),
    }


def means(by_item: Mapping[str, Sequence[Any]], measure: Callable[[Any], Any]) -> dict[str, float]:
    """Item -> mean of a measure over its replies (or over its verdicts)."""
    return {key: sum(float(measure(one)) for one in group) / len(group) for key, group in by_item.items()}


def distinct2(texts: Sequence[str]) -> float:
    """The share of different word pairs among all word pairs of the texts (arXiv 1510.03055)."""
    lowered = [[word.lower() for word in words(text)] for text in texts]
    pairs = [pair for text in lowered for pair in zip(text, text[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def copies(drawn: Drawn) -> dict[str, float]:
    """Item -> share of its replies that equal, word for word, its logged reply or a fresh reply to another prompt."""
    by_item = {item.key: [" ".join(words(reply.text)).lower() for reply in replies] for item, replies in drawn}
    num_items = Counter(text for texts in by_item.values() for text in set(texts))  # text -> items that have it as a reply
    logged = {item.key: " ".join(words(item.reply)).lower() for item, _ in drawn if isinstance(item, Record)}
    return {
        key: sum(bool(text) and (num_items[text] > 1 or text == logged.get(key)) for text in texts) / len(texts)
        for key, texts in by_item.items()
    }


def perplexity(ask: Ask, drawn: Drawn) -> float | None:
    """The perplexity of the first reply to every item under the start model, over all tokens; None if there is no text."""
    texts = [(item.prompt, reply.text, reply.ended) for item, (reply, *_) in drawn if reply.text]
    scored = ask.logprobs(texts, of="start", label="perplexity under the start model")
    logprobs = [one for one in scored if one is not None]
    return math.exp(-sum(one.nats for one in logprobs) / sum(one.num_tokens for one in logprobs)) if logprobs else None
