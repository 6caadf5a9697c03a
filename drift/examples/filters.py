"""What happens to unusable pairs: stated rules, every drop counted. The same for every method."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from drift.errors import UserError
from drift.records import Pair

APOLOGY = re.compile(
    r"^(i('m| am) )?(so |very )?(sorry|my apologies|i apologi[sz]e|you're right|as you (asked|requested))",
    re.IGNORECASE,
)

NOTED = {
    "tie": "ties of the judge", "empty": "empty", "identical": "identical to the other reply", "copied": "copies of its beginning",
    "echo": "that talk about the feedback", "truncated": "cut off by sampler.max_new_tokens", "unrenderable": "not renderable",
    "kept_truncated": "kept though sampler.max_new_tokens cut the chosen reply off (filters.truncated)",
    "kept_echo": "kept though the chosen reply talks about the feedback (filters.echo)",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Rules for fresh replies, in this order; the first that applies is counted.

    empty: no text. identical: chosen and rejected say the same. copied: a fresh reply starts with the first `copied_words`
    words of the other one. echo: a fresh chosen reply talks about the feedback (apologises, or repeats six words of it).
    truncated: the chosen reply was cut off by the length limit (keep: trained on without an end-of-turn token, which
    teaches the policy not to end). unrenderable: the chat template
    or the tokenizer does not keep prompt and reply apart."""

    copied_words: int
    truncated: Literal["keep", "drop"]
    echo: Literal["keep", "drop"]

    def check(self) -> None:
        if self.copied_words < 1:
            raise UserError(f"filters.copied_words={self.copied_words}: expected at least 1.")

    def take(self, candidates: Iterable[Pair | None], wanted: int | None, tokenizer: Any) -> tuple[list[Pair], dict[str, int]]:
        """The first `wanted` usable pairs (None: all) and the counts: seen, used, one per reason, kept_truncated, kept_echo."""
        pairs: list[Pair] = []
        counts = dict.fromkeys(("seen", "used", "tie", "empty", "identical", "copied", "echo", "truncated", "unrenderable"), 0)
        counts |= {"kept_truncated": 0, "kept_echo": 0}
        for pair in candidates:
            counts["seen"] += 1
            reason = self.reason(pair)
            if reason in ("truncated", "echo") and getattr(self, reason) == "keep":
                counts[f"kept_{reason}"] += 1
                reason = None
            if reason is None and not _renderable(tokenizer, pair):
                reason = "unrenderable"
            if reason is not None:
                counts[reason] += 1
                continue
            assert pair is not None
            pairs.append(pair)
            if len(pairs) == wanted:
                break
        counts["used"] = len(pairs)
        return pairs, counts

    def reason(self, pair: Pair | None) -> str | None:
        """Why a candidate is unusable, or None. A method yields None itself for a tie."""
        if pair is None:
            return "tie"
        chosen, rejected = pair.chosen.split(), pair.rejected.split()
        if not chosen or not rejected:
            return "empty"
        if chosen == rejected:
            return "identical"
        head = self.copied_words
        if pair.fresh and len(chosen) >= head and chosen[:head] == rejected[:head]:
            return "copied"
        if "chosen" in pair.fresh and self._echoes(pair):
            return "echo"
        return None if pair.chosen_ended else "truncated"

    @staticmethod
    def _echoes(pair: Pair) -> bool:
        if APOLOGY.match(pair.chosen.strip()):
            return True
        said, reply = (pair.feedback or "").lower().split(), " ".join(pair.chosen.lower().split())
        return any(" ".join(said[i : i + 6]) in reply for i in range(len(said) - 5))


def _renderable(tokenizer: Any, pair: Pair | None) -> bool:
    from drift.model.chat import NotAPrefix, reply_ids

    assert pair is not None
    try:
        for reply in (pair.chosen, pair.rejected):
            reply_ids(tokenizer, pair.prompt, reply, ended=True)
    except NotAPrefix:
        return False
    return True
