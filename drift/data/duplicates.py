"""Conversations that are there twice, or nearly (MinHash, by the library datasketch)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drift.records import Message, digest

WORDS = 5  # a shingle
PERMUTATIONS = 64


@dataclass(frozen=True)
class Twin:
    """The conversation that was there before. `likeness`: "equal to" or "nearly equal to"."""

    id: str
    likeness: str


def sketch(words: Sequence[str]) -> Any:
    """MinHash of the words in fives."""
    from datasketch import MinHash

    found = MinHash(num_perm=PERMUTATIONS)
    found.update_batch(list({" ".join(words[i : i + WORDS]).encode() for i in range(max(1, len(words) - WORDS + 1))}))
    return found


class Seen:
    """What has been seen. `threshold`: share of common shingles from which on two conversations count as one (None: equal only)."""

    def __init__(self, threshold: float | None) -> None:
        self.equal: dict[str, str] = {}
        self.near = None
        if threshold is not None:
            from datasketch import MinHashLSH

            self.near = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)

    def before(self, name: str, messages: Sequence[Message]) -> Twin | None:
        """The earlier twin of a conversation; remembers it by its name if it has none."""
        key = digest(list(messages))[:32]
        if key in self.equal:
            return Twin(self.equal[key], "equal to")
        if self.near is not None:
            words = " ".join(message["content"] for message in messages).lower().split()
            sketched = sketch(words)
            if twins := self.near.query(sketched):
                return Twin(self.equal[sorted(map(str, twins))[0]], "nearly equal to")
            self.near.insert(key, sketched)
        self.equal[key] = name
        return None
