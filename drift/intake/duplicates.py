"""Duplicate and near-duplicate records (MinHash, from the library datasketch).

Two records are equal if training would learn the same from them: prompt, reply, label and better reply. They are nearly equal if
everything before the last user turn is equal, and the turn, its first words, its last words (where a question often stands next to
a long shared text), the reply and the better reply are all nearly equal. So records that merely share a system prompt or a document
are not duplicates.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from drift.intake.aside import Aside
from drift.records import Record, digest

WORDS = 5  # of a shingle
ENDS = 15  # words at either end of the last user turn; if they differ, the request differs
PERMUTATIONS = 64


@dataclass(frozen=True)
class Twin:
    """The earlier record that a record duplicates. `likeness`: "equal to" or "nearly equal to"."""

    id: str
    likeness: str


@dataclass(frozen=True)
class Compared:
    """The parts of a record that are compared. `same`: a digest that must be equal. `ends`: shingles of the first and last words of
    the last user turn. `sketches`: MinHashes of that turn, the reply and the better reply."""

    id: str
    same: str
    ends: tuple[set[bytes], set[bytes]]
    sketches: tuple[Any, ...]


def shingles(words: Sequence[str]) -> set[bytes]:
    return {" ".join(words[i : i + WORDS]).encode() for i in range(max(1, len(words) - WORDS + 1))}


def minhash(items: Iterable[bytes]) -> Any:
    """The MinHash of a set of shingles."""
    from datasketch import MinHash

    result = MinHash(num_perm=PERMUTATIONS)
    result.update_batch(list(items))
    return result


class SeenRecords:
    """The records seen so far. `threshold`: two texts count as one from this share of common shingles on (None: only equal records
    are found)."""

    def __init__(self, threshold: float | None) -> None:
        self.threshold = threshold
        self.equal: dict[str, str] = {}
        self.compared: dict[str, Compared] = {}
        self.near = None
        if threshold is not None:
            from datasketch import MinHashLSH

            self.near = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)

    def find_twin(self, record: Record) -> Twin | None:
        """The earlier record that this one duplicates; if there is none, this one is remembered."""
        key = digest([list(record.prompt), record.reply, record.label, better_reply(record)])[:32]
        if key in self.equal:
            return Twin(self.equal[key], "equal to")
        if self.near is not None:
            compared, whole = _compared(record)
            for name in sorted(map(str, self.near.query(whole))):
                if self._nearly_equal(self.compared[name], compared):
                    return Twin(self.compared[name].id, "nearly equal to")
            self.near.insert(key, whole)
            self.compared[key] = compared
        self.equal[key] = record.id
        return None

    def _nearly_equal(self, one: Compared, other: Compared) -> bool:
        assert self.threshold is not None
        return (
            one.same == other.same
            and all(len(a & b) >= self.threshold * len(a | b) for a, b in zip(one.ends, other.ends, strict=True))
            and all(a.jaccard(b) >= self.threshold for a, b in zip(one.sketches, other.sketches, strict=True))
        )


def better_reply(record: Record) -> str | None:
    """The reply that training prefers to the record's own, if there is one."""
    return record.revised if record.satisfied else None


@dataclass(frozen=True)
class Copy:
    """A record of a conversation, where it is from, and how much it tells: a second try that satisfied, any, what the user said."""

    id: str
    file: str
    row: int
    told: tuple[bool, bool, bool]


class Copies:
    """The records of conversations that were logged again as they grew, of which a reply counts once: by the copy that tells most.
    `fuller`: place -> the record that replaces the first one."""

    def __init__(self) -> None:
        self.known: dict[str, Copy] = {}
        self.fuller: dict[str, Record] = {}

    def poorer(self, record: Record, file: str, row: int) -> Aside | None:
        """Of this record and an earlier copy of it, the poorer one, as set aside; None if there is no earlier copy."""
        told = (better_reply(record) is not None, record.revised is not None, record.feedback is not None)
        place, new = _place(record), Copy(record.id, file, row, told)
        if (old := self.known.setdefault(place, new)) is new:
            return None
        fuller, other = (new, old) if new.told > old.told else (old, new)
        if fuller is new:
            self.known[place], self.fuller[place] = new, record
        return set_aside_duplicate(other.file, other.row, Twin(fuller.id, "in another copy of the conversation of"))

    def fullest(self, record: Record) -> Record:
        """The copy that stands for this record."""
        return self.fuller.get(_place(record), record) if self.fuller else record


def _place(record: Record) -> str:
    return digest([record.conversation, list(record.prompt), record.reply, record.label])[:32]


def _compared(record: Record) -> tuple[Compared, Any]:
    """(the parts to compare, one MinHash of all of them, which finds candidates)."""
    *before, last = ([message["role"], *message["content"].lower().split()] for message in record.prompt)
    turn = last[1:]
    texts = [record.reply] if better_reply(record) is None else [record.reply, str(better_reply(record))]
    shingle_sets = [shingles(words) for words in (turn, *(text.lower().split() for text in texts))]
    compared = Compared(
        id=record.id,
        same=digest([before, record.label, len(texts)])[:32],
        ends=(shingles(turn[:ENDS]), shingles(turn[-ENDS:])),
        sketches=tuple(map(minhash, shingle_sets)),
    )
    return compared, minhash(bytes([number]) + shingle for number, items in enumerate(shingle_sets) for shingle in items)


def set_aside_duplicate(file: str, row: int, twin: Twin) -> Aside:
    nearly = twin.likeness == "nearly equal to"
    return Aside(
        file=file, row=row, field="messages", expected="a record that is not a duplicate",
        found=f"{twin.likeness} {twin.id}", reason="duplicate",
        remedy="intake.near_duplicates=null keeps it" if nearly else "none: training would use it twice",
    )  # fmt: skip
