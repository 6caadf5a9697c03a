"""Training prompts that an evaluation uses too: equal, with thirteen consecutive user words in common, or nearly equal.

Whole prompts are compared, without the system message: "Continue." after a different conversation is a different prompt. Text that
more than a tenth of all conversations share (one of several templates, a document) is ignored.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from drift.console import say
from drift.errors import UserError
from drift.intake.duplicates import WORDS
from drift.records import Prompt, Record, digest

GRAM = 13  # words, as in the GPT-3 paper (arXiv 2005.14165)
NEAR = 0.8  # share of common five-word sequences
FEW, MANY = 8, 200  # the fewest and the most prompts that are examined for shared text
COMMON = 10  # text is shared if more than one in so many conversations has it, and at least LEAST_COMMON
LEAST_COMMON = 5


class EvaluationPrompts:
    """The prompts of an evaluation. `others`: the prompts that are compared with them."""

    def __init__(self, prompts: Sequence[Prompt], others: Sequence[Prompt]) -> None:
        talks = list({digest(talk): talk for talk in map(words_by_message, prompts)}.values())
        self.equal = {digest(talk) for talk in talks}
        all_prompts = [*prompts, *others]
        chosen = sorted(all_prompts, key=lambda prompt: digest(list(prompt)))[:MANY]  # every second row may have the same template
        examined = list(map(words_by_message, chosen))
        self.shared = {size: common_runs(examined, size) for size in (GRAM, WORDS)}
        self.grams = {gram for talk in talks for gram in self.user_grams(talk)}
        self.sets = [fives for talk in talks if (fives := self.fives(talk))]
        self.places: dict[str, list[int]] = defaultdict(list)  # five-word sequence -> the sets that contain it
        for number, fives in enumerate(self.sets):
            for five in fives:
                self.places[five].append(number)

    def overlap(self, prompt: Prompt) -> str | None:
        """How a prompt overlaps with the evaluation's, or None."""
        talk = words_by_message(prompt)
        if digest(talk) in self.equal:
            return "equal"
        if not self.grams.isdisjoint(self.user_grams(talk)):
            return f"{GRAM} words in a row"
        return "nearly equal" if self._nearest(self.fives(talk)) >= NEAR else None

    def _nearest(self, fives: set[str]) -> float:
        """The largest share of common sequences (Jaccard index) with any of the prompts."""
        common = Counter(number for five in fives for number in self.places.get(five, ()))
        return max((count / (len(fives) + len(self.sets[number]) - count) for number, count in common.items()), default=0.0)

    def user_grams(self, talk: Sequence[Sequence[str]]) -> set[str]:
        """The thirteen-word sequences of the user messages, which are every other message."""
        return {gram for words in talk[::2] for gram in grams(words, GRAM)} - self.shared[GRAM]

    def fives(self, talk: Sequence[Sequence[str]]) -> set[str]:
        return {gram for words in talk for gram in grams(words, WORDS) or [" ".join(words)]} - self.shared[WORDS]


def words_by_message(prompt: Prompt) -> list[list[str]]:
    """The words of each message, without the system message."""
    texts = [message["content"].lower() for message in prompt if message["role"] != "system"]
    return [re.findall(r"\w+", text) or [text] for text in texts]


def common_runs(talks: Sequence[Sequence[Sequence[str]]], size: int) -> set[str]:
    """The sequences of `size` words that many conversations contain. Those with the same first message count as one: a prompt
    begins with the earlier turns of its conversation."""
    if len(talks) < FEW:
        return set()
    found: dict[str, set[str]] = defaultdict(set)
    for talk in talks:
        found[" ".join(talk[0]) if talk else ""].update(gram for words in talk for gram in grams(words, size))
    counts = Counter(gram for own in found.values() for gram in own)
    return {gram for gram, count in counts.items() if count >= LEAST_COMMON and COMMON * count > len(found)}


def grams(words: Sequence[str], size: int) -> set[str]:
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}


def remove_leaked(records: list[Record], prompts: Sequence[Prompt], action: str) -> tuple[list[Record], list[dict[str, Any]]]:
    """(records to train on, rows set aside), and says how many. `action` (intake.leakage): whether records whose prompts the
    evaluation uses are removed, stop the run, or are kept."""
    evaluation = EvaluationPrompts(prompts, [record.prompt for record in records])
    kept: list[Record] = []
    aside: list[dict[str, Any]] = []
    for record in records:
        overlap = evaluation.overlap(record.prompt)
        if overlap is not None:
            row = {"record": record.id, "field": "prompt", "expected": "a prompt that the evaluation does not use"}
            aside.append(row | {"found": overlap, "reason": "leakage"})
        if overlap is None or action == "keep":
            kept.append(record)
    if aside and action == "refuse":
        raise UserError(
            f"{len(aside)} training records have prompts that the evaluation uses; the first is {aside[0]['record']} "
            f"({aside[0]['found']}). intake.leakage=remove leaves them out."
        )
    if records and not kept:
        raise UserError(
            f"All {len(records)} training records have prompts that overlap with the evaluation's; the first is "
            f"{aside[0]['record']} ({aside[0]['found']}). If all prompts begin with the same text, set intake.leakage=keep."
        )
    if aside:
        becomes = "stay" if action == "keep" else "are left out"
        many = action == "remove" and len(aside) > len(records) / 10
        advice = " If they only share a template, intake.leakage=keep leaves them in." if many else ""
        found = f"{len(aside)} of {len(records)} training records have a prompt of the evaluation"
        say(f"  {found} and {becomes} (leakage.jsonl).{advice}")
    return kept, aside
