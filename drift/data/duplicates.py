"""Conversations that are there twice, or nearly (MinHash, by the library datasketch)."""

from dataclasses import dataclass

from drift.data.conversations import Conversation
from drift.records import digest

WORDS = 5  # a shingle
PERMUTATIONS = 64


@dataclass(frozen=True)
class Twin:
    """The conversation that was there before. `likeness`: "equal to" or "nearly equal to"."""

    id: str
    likeness: str


class Seen:
    """What has been seen. `threshold`: share of common shingles from which on two conversations count as one (None: equal only)."""

    def __init__(self, threshold: float | None) -> None:
        self.equal: dict[str, str] = {}
        self.near = None
        if threshold is not None:
            from datasketch import MinHashLSH

            self.near = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)

    def before(self, conversation: Conversation) -> Twin | None:
        """The earlier twin of a conversation; remembers it if it has none."""
        key = digest(list(conversation.messages))[:32]
        if key in self.equal:
            return Twin(self.equal[key], "equal to")
        if self.near is not None:
            from datasketch import MinHash

            words = " ".join(message["content"] for message in conversation.messages).lower().split()
            shingles = {" ".join(words[i : i + WORDS]).encode() for i in range(max(1, len(words) - WORDS + 1))}
            sketch = MinHash(num_perm=PERMUTATIONS)
            sketch.update_batch(list(shingles))
            if twins := self.near.query(sketch):
                return Twin(self.equal[sorted(map(str, twins))[0]], "nearly equal to")
            self.near.insert(key, sketch)
        self.equal[key] = conversation.id
        return None
