"""Removes unusable examples by fixed rules, the same for every method, and counts what each rule removed."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from drift.errors import UserError
from drift.records import Example

APOLOGY = re.compile(
    r"^(i('m| am) )?(so |very )?(sorry|my apologies|i apologi[sz]e|you're right|as you (asked|requested))",
    re.IGNORECASE,
)

NOTED = {
    "tie": "ties of the judge", "empty": "empty", "identical": "identical to the other reply",
    "copied": "copies of the other reply's beginning", "echo": "that talk about the feedback",
    "truncated": "cut off by sampler.max_new_tokens", "unrenderable": "that the chat template can't render",
    "too_long": "longer than train.max_tokens together with the feedback",
    "kept_truncated": "kept although sampler.max_new_tokens cut the chosen reply off (filters.truncated)",
    "kept_echo": "kept although the chosen reply talks about the feedback (filters.echo)",
}  # fmt: skip


def dropped(counts: dict[str, int]) -> str:
    """The counts of `Filters.take` in words, as far as they say why."""
    return ", ".join(f"{value} {NOTED[name]}" for name, value in counts.items() if value and name in NOTED)


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Rules for an example's replies, in this order; only the first rule that applies is counted.

    empty: no text. identical: a chosen and a rejected reply have the same words. copied: one starts with the first `copied_words`
    words of the other, and one of them is fresh. echo: a fresh chosen reply talks about the feedback (apologises, or repeats six
    consecutive words of it). truncated: the length limit cut a chosen reply off (keep: it is trained on without an end-of-turn
    token, which teaches the policy not to end its replies). unrenderable: the chat template or the tokenizer mixes prompt and
    reply. too_long: a reply and the prompt with the feedback in view have more than `train.max_tokens` tokens."""

    copied_words: int
    truncated: Literal["keep", "drop"]
    echo: Literal["keep", "drop"]

    def check(self) -> None:
        if self.copied_words < 1:
            raise UserError(f"filters.copied_words={self.copied_words}: expected at least 1.")

    def take(
        self, candidates: Iterable[Example | None], limit: int | None, tokenizer: Any, max_tokens: int
    ) -> tuple[list[Example], dict[str, int]]:
        """The first `limit` usable examples (None: all), and the counts: seen, used, one per rule, kept_truncated, kept_echo."""
        examples: list[Example] = []
        counts = dict.fromkeys(("seen", "used", *NOTED), 0)
        for candidate in candidates:
            counts["seen"] += 1
            reason = self.reason(candidate)
            if reason in ("truncated", "echo") and getattr(self, reason) == "keep":
                counts[f"kept_{reason}"] += 1
                reason = None
            if reason is None:
                reason = _unfit(tokenizer, candidate, max_tokens)
            if reason is not None:
                counts[reason] += 1
                continue
            assert candidate is not None
            examples.append(candidate)
            if len(examples) == limit:
                break
        counts["used"] = len(examples)
        return examples, counts

    def reason(self, candidate: Example | None) -> str | None:
        """The rule that makes a candidate unusable, or None. A candidate that is None is a tie."""
        if candidate is None:
            return "tie"
        if not all(reply.text.split() for reply in candidate.replies):
            return "empty"
        sides = list(product(candidate.side(True), candidate.side(False)))
        if any(chosen.text.split() == rejected.text.split() for chosen, rejected in sides):
            return "identical"
        if any((chosen.fresh or rejected.fresh) and self._copies(chosen.text, rejected.text) for chosen, rejected in sides):
            return "copied"
        if any(chosen.fresh and _echoes(chosen.text, candidate.feedback or "") for chosen in candidate.side(True)):
            return "echo"
        return None if all(chosen.ended for chosen in candidate.side(True)) else "truncated"

    def _copies(self, one: str, other: str) -> bool:
        head = one.split()[: self.copied_words]
        return len(head) == self.copied_words and head == other.split()[: self.copied_words]


def _echoes(reply: str, feedback: str) -> bool:
    if APOLOGY.match(reply.strip()):
        return True
    words, text = feedback.lower().split(), " ".join(reply.lower().split())
    return any(" ".join(words[i : i + 6]) in text for i in range(len(words) - 5))


def _unfit(tokenizer: Any, candidate: Example | None, max_tokens: int) -> str | None:
    """The last two rules: "unrenderable", "too_long" or None. Without `hindsight` every length fits (see intake/usable.py)."""
    from drift.model.chat import NotAPrefix, prompt_ids, reply_ids

    assert candidate is not None
    try:
        longest = max(len(reply_ids(tokenizer, candidate.prompt, reply.text, ended=True)) for reply in candidate.replies)
        told = len(prompt_ids(tokenizer, candidate.hindsight)) if candidate.hindsight else 0
    except NotAPrefix:
        return "unrenderable"
    return "too_long" if told and told + longest > max_tokens else None
