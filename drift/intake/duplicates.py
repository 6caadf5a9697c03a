"""Records that are there twice, or nearly (MinHash, by the library datasketch).

Two records are equal if the same is learnt from them: prompt, reply, label and better reply. They are nearly equal if what stands
before the last user turn is equal, and nearly equal are that turn, its first and its last words (where a question stands beside a
long text that others share), the reply, and the better reply. So a shared system prompt or document makes no twins of records.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from drift.intake.conversations import Conversation
from drift.intake.rows import Aside
from drift.records import Record, digest

WORDS = 5  # a shingle
ENDS = 15  # words at either end of the last user turn: one that differs there makes another request
PERMUTATIONS = 64


@dataclass(frozen=True)
class Twin:
    """The record that was there before. `likeness`: "equal to" or "nearly equal to"."""

    id: str
    likeness: str


@dataclass(frozen=True)
class Parts:
    """What of a record is compared. `same`: must be equal. `ends`: shingles of the first and last words of its last user turn.
    `sketches`: of that turn, the reply, and the better one."""

    id: str
    same: str
    ends: tuple[set[bytes], set[bytes]]
    sketches: tuple[Any, ...]


def shingles(words: Sequence[str]) -> set[bytes]:
    return {" ".join(words[i : i + WORDS]).encode() for i in range(max(1, len(words) - WORDS + 1))}


def sketch(found: Iterable[bytes]) -> Any:
    """MinHash of shingles."""
    from datasketch import MinHash

    hashed = MinHash(num_perm=PERMUTATIONS)
    hashed.update_batch(list(found))
    return hashed


class Seen:
    """What has been seen. `threshold`: share of common shingles from which on two texts count as one (None: equal records only)."""

    def __init__(self, threshold: float | None) -> None:
        self.threshold = threshold
        self.equal: dict[str, str] = {}
        self.parts: dict[str, Parts] = {}
        self.near = None
        if threshold is not None:
            from datasketch import MinHashLSH

            self.near = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)

    def before(self, record: Record) -> Twin | None:
        """The earlier twin of a record; remembers the record if it has none."""
        key = digest([list(record.prompt), record.reply, record.label, better(record)])[:32]
        if key in self.equal:
            return Twin(self.equal[key], "equal to")
        if self.near is not None:
            parts, whole = _parts(record)
            for name in sorted(map(str, self.near.query(whole))):
                if self._near(self.parts[name], parts):
                    return Twin(self.parts[name].id, "nearly equal to")
            self.near.insert(key, whole)
            self.parts[key] = parts
        self.equal[key] = record.id
        return None

    def _near(self, one: Parts, other: Parts) -> bool:
        assert self.threshold is not None
        return (
            one.same == other.same
            and all(len(a & b) >= self.threshold * len(a | b) for a, b in zip(one.ends, other.ends, strict=True))
            and all(a.jaccard(b) >= self.threshold for a, b in zip(one.sketches, other.sketches, strict=True))
        )


def better(record: Record) -> str | None:
    """The reply that is learnt as the better one."""
    return record.revised if record.satisfied else None


def _parts(record: Record) -> tuple[Parts, Any]:
    """(what is compared, a sketch of it all, which finds candidates)."""
    *before, last = ([message["role"], *message["content"].lower().split()] for message in record.prompt)
    turn = last[1:]
    texts = [record.reply] if better(record) is None else [record.reply, str(better(record))]
    compared = [shingles(words) for words in (turn, *(text.lower().split() for text in texts))]
    parts = Parts(
        id=record.id,
        same=digest([before, record.label, len(texts)])[:32],
        ends=(shingles(turn[:ENDS]), shingles(turn[-ENDS:])),
        sketches=tuple(map(sketch, compared)),
    )
    return parts, sketch(bytes([number]) + shingle for number, found in enumerate(compared) for shingle in found)


def duplicate(conversation: Conversation, twin: Twin) -> Aside:
    near = twin.likeness != "equal to"
    return Aside(
        file=conversation.file, row=conversation.row, field="messages", expected="a record that is there once",
        found=f"{twin.likeness} {twin.id}", reason="duplicate",
        remedy="intake.near_duplicates=null keeps it" if near else "none: the same would be learnt twice",
    )  # fmt: skip
