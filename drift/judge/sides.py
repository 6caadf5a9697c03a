"""What a judge, or the users themselves, say about the replies in a file of records, for `drift agree`.

A *pair* is a disliked reply and the one that followed it, as two answers to the same prompt. Which of them comes first is drawn by
the record's content, so that neither order nor place tells the better one. Users prefer the second reply where it satisfied them;
otherwise it is not known whom they prefer. A *single* is a reply that a user liked (1) or disliked (0)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from drift.errors import UserError
from drift.judge.llm import POINTS, agreed
from drift.parts import Judge
from drift.records import Prompt, Record, Reply

USERS = "users"
Texts = Sequence[tuple[Record, str, bool]]  # a reply that was logged, or came after it, with its record, and whether it ended
Grader = Callable[[Judge, Texts], list[float | None]]


@runtime_checkable
class Compares(Protocol):
    """A judge that may compare two replies at a time. `compares`: it does. `orders`: the verdicts ("A", "B", "tie", or None: not
    readable) on each (prompt, reply, reply), shown in this order and in the other one; A is the reply shown first."""

    @property
    def compares(self) -> bool: ...

    def orders(self, pairs: Sequence[tuple[Prompt, str, str]]) -> Sequence[tuple[Any, Any]]: ...


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A record with two replies. `first`, `second`: in the order drawn for it. `better`: the users' verdict, None if unknown."""

    record: Record
    first: str
    second: str
    better: float | None


@dataclass(frozen=True, kw_only=True)
class Side:
    """A judge or the users. `pairs`: 1 if the first reply of a pair is better, 0 if the second is, 0.5 for a tie; `singles`: a
    score of each reply that a user liked or disliked (None as a whole: it means nothing between prompts). None: no verdict.
    `orders`: the verdicts on the pairs in both orders, if it compares."""

    name: str
    pairs: list[float | None]
    singles: list[float | None] | None
    orders: list[tuple[Any, Any]] | None


def pairs_of(records: Sequence[Record]) -> list[Pair]:
    """The disliked replies that another one followed, with that one."""
    found = []
    for record in records:
        if record.label != "dsat" or not record.revised or record.revised.split() == record.reply.split():
            continue
        swap = int(record.key[:2], 16) % 2 == 1
        first, second = (record.revised, record.reply) if swap else (record.reply, record.revised)
        found.append(Pair(record=record, first=first, second=second, better=float(swap) if record.satisfied else None))
    return found


def singles_of(records: Sequence[Record]) -> list[Record]:
    """The records with a liked or disliked reply."""
    return [record for record in records if record.label != "silent"]


def users(pairs: Sequence[Pair], singles: Sequence[Record]) -> Side:
    """What the users said."""
    return Side(
        name=USERS,
        pairs=[pair.better for pair in pairs],
        singles=[float(record.label == "sat") for record in singles],
        orders=None,
    )


def ask(judge: Judge, name: str, pairs: Sequence[Pair], singles: Sequence[Record], grade: Grader | None = None) -> Side:
    """A judge's verdicts. `grade`: scores replies, given with their records (None: the judge itself). Raises UserError if the judge
    can't judge these records."""
    name = f"{name} ({judge.label})"
    if judge.needs_truth and any(record.truth is None for record in (*(pair.record for pair in pairs), *singles)):
        raise UserError(f"{name} checks replies against a known truth, which these records don't have. Use another judge.")
    if isinstance(judge, Compares) and judge.compares:
        orders = list(judge.orders([(pair.record.prompt, pair.first, pair.second) for pair in pairs]))
        return Side(name=name, pairs=[preferred(*both) for both in orders], singles=None, orders=orders)
    texts = [
        (pair.record, text, True if text == pair.record.revised else pair.record.ended) for pair in pairs for text in both(pair)
    ]
    texts += [(record, record.reply, record.ended) for record in singles]
    scores = (grade or graded)(judge, texts)
    ahead = [preference(*scores[i : i + 2]) for i in range(0, 2 * len(pairs), 2)]
    return Side(name=name, pairs=ahead, singles=scores[2 * len(pairs) :], orders=None)


def compares(judge: object) -> bool:
    """Whether a judge compares replies to one prompt, so that its scores mean nothing between prompts."""
    return isinstance(judge, Compares) and judge.compares


def both(pair: Pair) -> tuple[str, str]:
    return pair.first, pair.second


def graded(judge: Judge, texts: Texts) -> list[float | None]:
    """A score for each reply, given with its record; each is judged once."""
    items = dict.fromkeys((record.key, text) for record, text, _ in texts)
    asked = {(record.key, text): (record, [Reply(text=text, num_tokens=0, ended=ended)]) for record, text, ended in texts}
    with judge.open() as grade:
        found = dict(zip(items, (scores[0] for scores in grade([asked[item] for item in items])), strict=True))
    return [found[record.key, text] for record, text, _ in texts]


def preference(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 0.5 if first == second else float(first > second)


def preferred(one: Any, swapped: Any) -> float | None:
    """The verdict of both orders about the first reply of a pair: a tie if they disagree."""
    verdict = agreed(one, swapped)
    return None if verdict is None else POINTS[verdict]
