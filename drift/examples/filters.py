"""Removes unusable examples by fixed rules, the same for every method, and counts what each rule removed."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Literal

from drift.console import say
from drift.errors import UserError
from drift.examples.preferred import Ruled, preferred
from drift.parts import Ask, Judge, Method
from drift.records import Example, Record

APOLOGY = re.compile(
    r"^(i('m| am) )?(so |very )?(sorry|my apologies|i apologi[sz]e|you're right|as you (asked|requested))",
    re.IGNORECASE,
)

LABELS = {"sat": "SAT", "dsat": "DSAT", "silent": "of silent users"}
NOTED = {
    "tie": "ties of the judge", "empty": "empty", "identical": "identical to the other reply",
    "copied": "copies of the other reply's beginning", "echo": "that talk about the feedback",
    "truncated": "cut off by sampler.max_new_tokens", "unrenderable": "that the chat template can't render",
    "too_long": "longer than train.max_tokens together with the feedback",
    "unjudged": "that the judge could not score", "disfavoured": "that filters.judge does not prefer to the disliked reply",
    "kept_truncated": "kept although sampler.max_new_tokens cut the chosen reply off (filters.truncated)",
    "kept_echo": "kept although the chosen reply talks about the feedback (filters.echo)",
    "thinned": "kept without the replies that filters.judge does not prefer to the disliked one",
}  # fmt: skip


REMEDIES = {
    "tie": "The judge finds all replies to a prompt alike: raise sampler.temperature or method.num_samples, or take another judge",
    "empty": "The policy or the log says nothing: look at the replies in the store, or take another model or log",
    "identical": "Raise sampler.temperature, so that fresh replies differ",
    "copied": "Raise sampler.temperature, or raise filters.copied_words",
    "echo": "Set filters.echo=keep, or lower method.guidance.share",
    "truncated": "Raise sampler.max_new_tokens, or set filters.truncated=keep",
    "unrenderable": "Take another chat template or model",
    "too_long": "Raise train.max_tokens",
    "unjudged": "Raise the limits of the judge, or take another one",
    "disfavoured": "Take another judge, or none (filters.judge=null)",
}  # rule -> what to try where it leaves nothing


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
    reply. too_long: a reply and the prompt with the feedback in view have more than `train.max_tokens` tokens. disfavoured: `judge`
    prefers none of the fresh chosen replies to the reply that the user disliked (those that it does not prefer are removed)."""

    copied_words: int
    truncated: Literal["keep", "drop"]
    echo: Literal["keep", "drop"]
    judge: Judge | None

    def check(self) -> None:
        if self.copied_words < 1:
            raise UserError(f"filters.copied_words={self.copied_words}: expected at least 1.")

    def take(
        self,
        candidates: Iterable[Example | None],
        limit: int | None,
        tokenizer: Any,
        max_tokens: int,
        *,
        ask: Ask,
        records: Sequence[Record],
    ) -> tuple[list[Example], dict[str, int]]:
        """The first `limit` usable examples (None: all), and the counts: seen, used, one per rule, and what was kept. `records`:
        those that the candidates come from. `ask` is told how many are missing."""
        examples: list[Example] = []
        ask.missing = limit
        counts = dict.fromkeys(("seen", "used", *NOTED), 0)
        for candidate, reason, notes in self._ruled(candidates, tokenizer, max_tokens, ask, {one.id: one for one in records}):
            counts["seen"] += 1
            for name in notes if reason is None else [reason]:
                counts[name] += 1
            if reason is not None:
                continue
            assert candidate is not None
            examples.append(candidate)
            if limit is not None:
                ask.missing = limit - len(examples)
            if ask.missing == 0:
                break
        counts["used"] = len(examples)
        return examples, counts

    def _ruled(
        self, candidates: Iterable[Example | None], tokenizer: Any, max_tokens: int, ask: Ask, records: Mapping[str, Record]
    ) -> Iterator[Ruled]:
        """Every candidate, ruled upon; lazily, or as many at once as the judge gets."""
        items = iter(candidates)
        while group := list(islice(items, self.judge.group_size if self.judge else 1)):
            ruled = [self._rule(candidate, tokenizer, max_tokens) for candidate in group]
            if self.judge is not None:
                left = [candidate for candidate, reason, _ in ruled if candidate is not None and reason is None]
                judged = iter(preferred(self.judge, left, ask, records))
                for i, (_, reason, notes) in enumerate(ruled):
                    if reason is None:
                        candidate, reason, more = next(judged)
                        ruled[i] = candidate, reason, [*notes, *more]
            yield from ruled

    def _rule(self, candidate: Example | None, tokenizer: Any, max_tokens: int) -> Ruled:
        """All rules but the judge's."""
        reasons = self.reasons(candidate)
        kept = [reason for reason in reasons if reason in ("truncated", "echo") and getattr(self, reason) == "keep"]
        reason = next((reason for reason in reasons if reason not in kept), None)
        return candidate, reason or _unfit(tokenizer, candidate, max_tokens), [] if reason else [f"kept_{name}" for name in kept]

    def reasons(self, candidate: Example | None) -> list[str]:
        """The rules that make a candidate unusable. A candidate that is None is a tie."""
        if candidate is None:
            return ["tie"]
        if not all(reply.text.split() for reply in candidate.replies):
            return ["empty"]
        sides = list(product(candidate.side(True), candidate.side(False)))
        if any(chosen.text.split() == rejected.text.split() for chosen, rejected in sides):
            return ["identical"]
        if any((chosen.fresh or rejected.fresh) and self._copies(chosen.text, rejected.text) for chosen, rejected in sides):
            return ["copied"]
        echoes = any(chosen.fresh and _echoes(chosen.text, candidate.feedback or "") for chosen in candidate.side(True))
        truncated = not all(chosen.ended for chosen in candidate.side(True))
        return ["echo"] * echoes + ["truncated"] * truncated

    def _copies(self, one: str, other: str) -> bool:
        head = one.split()[: self.copied_words]
        return len(head) == self.copied_words and head == other.split()[: self.copied_words]


def need_feedback(methods: Sequence[Method], records: Sequence[Record]) -> None:
    """Refuses a method that can learn from none of the records for training."""
    for method in methods:
        if not any(map(method.learns_from, records)):
            labels = Counter(record.label for record in records)
            found = ", ".join(f"{labels[label]} {word}" for label, word in LABELS.items() if labels[label])
            raise UserError(
                f"The method has nothing to learn from: it needs {method.needs}, and the {len(records)} records for training are "
                f"{found or 'none'}. Choose a method that suits the log: `drift describe` proposes one."
            )


def need_enough(counts: dict[str, int], *, made: int, wanted: int | None, num_records: int, needs: str) -> None:
    """Refuses a method that made no usable example, and says so if it made fewer than `wanted`. `needs`: the feedback that it
    learns from."""
    if not made:
        raise UserError(
            f"The method made no usable example from {num_records} records: of {counts['seen']} candidates, "
            f"{dropped(counts) or 'none was dropped'}. {remedy(counts, needs)}"
        )
    if wanted is not None and made < wanted:
        say(
            f"  Note: only {made} of {wanted} examples, because the records are used up (more passes: method.rounds). For a fair "
            f"comparison run the other methods with examples_per_iteration={made}."
        )


def remedy(counts: dict[str, int], needs: str) -> str:
    """What helps against the commonest reason for which no candidate was usable."""
    commonest = max(REMEDIES, key=lambda name: counts.get(name, 0))
    if not counts.get(commonest):
        return f"Give it the feedback that it learns from: {needs}."
    return f"{REMEDIES[commonest]}."


def _echoes(reply: str, feedback: str) -> bool:
    if APOLOGY.match(reply.strip()):
        return True
    words, text = feedback.lower().split(), " ".join(reply.lower().split())
    return any(" ".join(words[i : i + 6]) in text for i in range(len(words) - 5))


def _unfit(tokenizer: Any, candidate: Example | None, max_tokens: int) -> str | None:
    """Of the rules, "unrenderable", "too_long" or None. Without `hindsight` every length fits (see intake/usable.py)."""
    from drift.model.chat import NotAPrefix, prompt_ids, reply_ids

    assert candidate is not None
    try:
        longest = max(len(reply_ids(tokenizer, candidate.prompt, reply.text, ended=True)) for reply in candidate.replies)
        told = len(prompt_ids(tokenizer, candidate.hindsight)) if candidate.hindsight else 0
    except NotAPrefix:
        return "unrenderable"
    return "too_long" if told and told + longest > max_tokens else None
