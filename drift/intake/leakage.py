"""Training prompts that an evaluation asks too: equal, sharing thirteen words of a user in a row, or nearly the same (MinHash).

Whole prompts are compared, but for the system message: "Continue." after another conversation is another prompt. What more than
half of all prompts share (a template, a document) says nothing about a single one and is left out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from drift.errors import UserError
from drift.intake.duplicates import PERMUTATIONS, WORDS, sketch
from drift.records import Prompt, Record, digest

GRAM = 13  # words, as GPT-3's authors looked for (arXiv 2005.14165)
NEAR = 0.8  # share of common word fives
FEW, MANY = 8, 200  # prompts that are looked at for what most of them share


class Asked:
    """The prompts of an evaluation; `others`: those that are compared with them."""

    def __init__(self, prompts: Sequence[Prompt], others: Sequence[Prompt]) -> None:
        from datasketch import MinHashLSH

        talks = list({digest(talk): talk for talk in map(said, prompts)}.values())
        self.equal = {digest(talk) for talk in talks}
        every = [*prompts, *others]
        looked_at = [said(prompt) for prompt in every[:: -(-len(every) // MANY)]] if every else []
        self.shared = {size: shared(looked_at, size) for size in (GRAM, WORDS)}
        self.grams = {gram for talk in talks for gram in self.of_users(talk)}
        self.near = MinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS)
        self.known: set[bytes] = set()
        for number, talk in enumerate(talks):
            if fives := self.fives(talk):
                self.known |= fives
                self.near.insert(str(number), sketch(fives))

    def has(self, prompt: Prompt) -> str | None:
        """How a prompt overlaps with them, or None."""
        talk = said(prompt)
        if digest(talk) in self.equal:
            return "equal"
        if not self.grams.isdisjoint(self.of_users(talk)):
            return f"{GRAM} words in a row"
        fives = self.fives(talk)
        if len(fives & self.known) <= NEAR / 2 * len(fives):  # sparing a sketch: too little of it is anywhere
            return None
        return "nearly equal" if self.near.query(sketch(fives)) else None

    def of_users(self, talk: Sequence[Sequence[str]]) -> set[str]:
        """The words in thirteens of the users' messages, every other one."""
        return {gram for words in talk[::2] for gram in grams(words, GRAM)} - self.shared[GRAM]

    def fives(self, talk: Sequence[Sequence[str]]) -> set[bytes]:
        found = {gram for words in talk for gram in grams(words, WORDS) or [" ".join(words)]}
        return {gram.encode() for gram in found - self.shared[WORDS]}


def said(prompt: Prompt) -> list[list[str]]:
    """The words of every message but the system's."""
    texts = [message["content"].lower() for message in prompt if message["role"] != "system"]
    return [re.findall(r"\w+", text) or [text] for text in texts]


def shared(talks: Sequence[Sequence[Sequence[str]]], size: int) -> set[str]:
    """What more than half of the prompts hold, in runs of `size` words."""
    if len(talks) < FEW:
        return set()
    counts = Counter(gram for talk in talks for gram in {gram for words in talk for gram in grams(words, size)})
    return {gram for gram, count in counts.items() if 2 * count > len(talks)}


def grams(words: Sequence[str], size: int) -> set[str]:
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}


def remove_leaked(records: list[Record], prompts: Sequence[Prompt], what: str) -> tuple[list[Record], list[dict[str, Any]]]:
    """(records to train on, rows set aside): `what` (intake.leakage) removes records whose prompts an evaluation asks, refuses to
    go on with them, or keeps them."""
    asked = Asked(prompts, [record.prompt for record in records])
    kept: list[Record] = []
    aside: list[dict[str, Any]] = []
    for record in records:
        how = asked.has(record.prompt)
        if how is not None:
            row = {"record": record.id, "field": "prompt", "expected": "a prompt that the evaluation does not ask"}
            aside.append(row | {"found": how, "reason": "leakage"})
        if how is None or what == "keep":
            kept.append(record)
    if aside and what == "refuse":
        raise UserError(
            f"{len(aside)} training records have prompts that the evaluation asks, the first is {aside[0]['record']} "
            f"({aside[0]['found']}). intake.leakage=remove leaves them out."
        )
    if records and not kept:
        raise UserError(
            f"All {len(records)} training records have prompts that overlap with the evaluation's, the first is "
            f"{aside[0]['record']} ({aside[0]['found']}). If all prompts begin with the same text, set intake.leakage=keep."
        )
    return kept, aside
