"""Training prompts that an evaluation asks too: equal, sharing thirteen words in a row, or nearly the same (MinHash)."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from drift.data.duplicates import PERMUTATIONS, sketch
from drift.errors import UserError
from drift.records import Prompt, Record

GRAM = 13  # words, as GPT-3's authors looked for (arXiv 2005.14165)
NEAR = 0.8  # share of common word fives


class Asked:
    """The prompts of an evaluation."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        from datasketch import MinHashLSH

        self.equal: set[str] = set()
        self.grams: set[str] = set()
        self.near = MinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS)
        for number, prompt in enumerate(prompts):
            words = said(prompt)
            self.equal.add(" ".join(words))
            self.grams.update(grams(words))
            self.near.insert(str(number), sketch(words))

    def has(self, prompt: Prompt) -> str | None:
        """How a prompt overlaps with them, or None."""
        words = said(prompt)
        if " ".join(words) in self.equal:
            return "equal"
        if not self.grams.isdisjoint(grams(words)):
            return f"{GRAM} words in a row"
        return "nearly equal" if self.near.query(sketch(words)) else None


def said(prompt: Prompt) -> list[str]:
    """The words of the last user message."""
    return re.findall(r"\w+", prompt[-1]["content"].lower())


def grams(words: Sequence[str]) -> set[str]:
    return {" ".join(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}


def apart(records: list[Record], prompts: Iterable[Prompt], what: str) -> tuple[list[Record], list[dict[str, Any]]]:
    """(records to train on, rows set aside): `what` (intake.leakage) removes records whose prompts an evaluation asks, refuses to
    go on with them, or keeps them."""
    asked = Asked(prompts)
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
