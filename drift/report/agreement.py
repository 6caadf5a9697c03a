"""`drift agree`: how far two judges agree, or a judge and the users, on a file of records. On the console, and as JSON."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.console import say, table
from drift.errors import UserError
from drift.intake.aside import told
from drift.judge import sides
from drift.judge.sides import USERS, Pair, Side
from drift.judge.weighted import auc, correlation, kappa
from drift.parts import Judge, Log
from drift.records import Record, digest, write_json
from drift.report.tables import show
from drift.statistics import Interval, over_items, over_weights

MEANINGS = {
    "agreement": "share of pairs in which both prefer the same reply; a tie of one of them counts half, so chance is 0.5",
    "agreement without ties": "the same, of the pairs in which neither has a tie",
    "kappa": "Cohen's kappa of the verdicts first, second, tie: 0 is chance, 1 is perfect",
    "ties": "share of pairs in which this side prefers neither reply",
    "AUC": "how often a liked reply has a higher score than a disliked one, to any prompt: 0.5 is chance",
    "rank correlation": "Spearman's, of the two sides' scores of single replies",
    "changed by the order": "share of pairs in which the two orders give different verdicts: these became ties",
    "first one preferred": "share of the verdicts other than ties that name the reply shown first: 0.5 without position bias",
    "longer one preferred": "share of the verdicts other than ties that name the longer reply",
    "rank correlation with length": "Spearman's, of the preference and the difference in characters",
    "rank correlation of score and length": "Spearman's, of the score and the characters of a single reply",
}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measured quantity. `of`: which side or group it is about ("" for both sides)."""

    name: str
    of: str
    number: int
    interval: Interval


def agree(chosen: Sequence[tuple[str, Judge | None]], log: Log, most: int | None, out: Path) -> None:
    """Asks both sides (a name, and a judge or None for the users) about the records of a file, at most so many; prints the
    measures and writes them to `out`."""
    items = [item for file in log.files() for item in log.conversations(file)]
    records = [item for item in items if isinstance(item, Record)]
    if aside := [item for item in items if not isinstance(item, Record)]:
        if not records:
            raise UserError(f"No usable record: all {len(aside)} rows were set aside. The first is {told(aside[0])}.")
        say(f"{len(aside)} of {len(items)} rows are set aside. The first is {told(aside[0])}.")
    kept = sorted(records, key=lambda record: digest(record.key))[:most]
    pairs, singles = sides.pairs_of(kept), sides.singles_of(kept)
    if any(judge is None for _, judge in chosen):
        unknown = sum(pair.better is None for pair in pairs)
        pairs = [pair for pair in pairs if pair.better is not None]
        say(f"{len(pairs)} pairs of a disliked reply and one that satisfied; {unknown} in which the second did not are left out.")
    else:
        say(f"{len(pairs)} pairs of a disliked reply and the one that followed it.")
    say(f"{sum(one.label == 'sat' for one in singles)} liked and {sum(one.label == 'dsat' for one in singles)} disliked replies.")
    views = [sides.ask(judge, name, pairs, singles) if judge else sides.users(pairs, singles) for name, judge in chosen]
    for view in views:
        verdicts = [*view.pairs, *(view.singles or [])]
        if lost := verdicts.count(None):
            say(f"{view.name}: {lost} of {len(verdicts)} verdicts could not be read, and are left out.")
    measures = all_measures(views, pairs, singles)
    if not measures:
        raise UserError(
            "There is nothing to compare. A judge that compares two replies needs DSAT records with a second reply (`revised`), "
            "which must have satisfied if it is compared with the users; one that grades replies needs liked and disliked ones."
        )
    write(views, measures, out)


def write(views: Sequence[Side], measures: Sequence[Measure], out: Path) -> None:
    """On the console and to a file."""
    table([{"measure": one.name, "of": one.of, "value": show(one.interval, 3), "over": one.interval.over} for one in measures])
    for name in dict.fromkeys(one.name for one in measures):
        say(f"  {name}: {MEANINGS[name]}.")
    write_json(out, content(views, measures))
    say(f"Written: {out}")


def content(views: Sequence[Side], measures: Sequence[Measure]) -> dict[str, Any]:
    """Of the file: both sides, what was measured, and what the measures mean."""
    plain = [{"measure": one.name, "of": one.of, "number": one.number} | dataclasses.asdict(one.interval) for one in measures]
    return {"a": views[0].name, "b": views[1].name, "measures": plain, "meanings": MEANINGS}


def all_measures(views: Sequence[Side], pairs: Sequence[Pair], singles: Sequence[Record]) -> list[Measure]:
    """Of both sides together, then of each."""
    return [*between(views[0], views[1], pairs, singles), *(found for view in views for found in about(view, pairs, singles))]


def between(one: Side, other: Side, pairs: Sequence[Pair], singles: Sequence[Record]) -> list[Measure]:
    """The measures of both sides together, those of the pairs also by the category of the complaint."""
    known = [
        (a, b, pair.record) for a, b, pair in zip(one.pairs, other.pairs, pairs, strict=True) if a is not None and b is not None
    ]
    found = [_mean("agreement", "", [(1 - abs(a - b), record) for a, b, record in known])]
    found.append(_mean("agreement without ties", "", [(float(a == b), record) for a, b, record in known if 0.5 not in (a, b)]))
    codes = [(int(2 * a), int(2 * b), record) for a, b, record in known]
    found.append(_weighed("kappa", "", kappa([a for a, *_ in codes], [b for _, b, _ in codes]), [record for *_, record in codes]))
    categories = dict.fromkeys(category(record) for *_, record in known)
    for name in sorted(categories) if len(categories) > 1 else []:
        found.append(_mean("agreement", name, [(1 - abs(a - b), record) for a, b, record in known if category(record) == name]))
    return [measure for measure in [*found, *_of_singles(one, other, singles)] if measure is not None]


def _of_singles(one: Side, other: Side, singles: Sequence[Record]) -> list[Measure | None]:
    """AUC of a judge's scores if the other side is the users, also for the complaints of each category; else the correlation."""
    if one.singles is None or other.singles is None:
        return []
    known = [(a, b, r) for a, b, r in zip(one.singles, other.singles, singles, strict=True) if a is not None and b is not None]
    if USERS not in (one.name, other.name):
        both = correlation([a for a, *_ in known], [b for _, b, _ in known])
        return [_weighed("rank correlation", "", both, [record for *_, record in known])]
    rows = [(b, record) if one.name == USERS else (a, record) for a, b, record in known]
    kinds = sorted({category(record) for _, record in rows if record.label == "dsat"})
    groups = [("", rows)]
    for kind in kinds if len(kinds) > 1 else []:
        groups.append((kind, [(score, record) for score, record in rows if record.label == "sat" or category(record) == kind]))
    return [
        _weighed("AUC", name, auc([s for s, _ in part], [r.label == "sat" for _, r in part]), [r for _, r in part])
        for name, part in groups
    ]


def about(side: Side, pairs: Sequence[Pair], singles: Sequence[Record]) -> list[Measure]:
    """The measures of one side: ties, position, length."""
    known = [(verdict, pair) for verdict, pair in zip(side.pairs, pairs, strict=True) if verdict is not None]
    longer = [(verdict, len(pair.first) - len(pair.second), pair.record) for verdict, pair in known]
    decided = [(float((verdict == 1) == (more > 0)), record) for verdict, more, record in longer if verdict != 0.5 and more]
    found: list[Measure | None] = []
    if side.name != USERS:
        found.append(_mean("ties", side.name, [(float(verdict == 0.5), pair.record) for verdict, pair in known]))
    if side.orders is not None:
        read = [(a, b, pair.record) for (a, b), pair in zip(side.orders, pairs, strict=True) if a is not None and b is not None]
        changed = [(float((a, b) not in (("A", "B"), ("B", "A"), ("tie", "tie"))), record) for a, b, record in read]
        named = [(float(shown == "A"), record) for a, b, record in read for shown in (a, b) if shown != "tie"]
        found += [_mean("changed by the order", side.name, changed), _mean("first one preferred", side.name, named)]
    found.append(_mean("longer one preferred", side.name, decided))
    follows = correlation([verdict for verdict, *_ in longer], [more for _, more, _ in longer])
    found.append(_weighed("rank correlation with length", side.name, follows, [record for *_, record in longer]))
    scored = [(score, record) for score, record in zip(side.singles or [], singles, strict=False) if score is not None]
    by_length = correlation([score for score, _ in scored], [len(record.reply) for _, record in scored])
    found.append(_weighed("rank correlation of score and length", side.name, by_length, [record for _, record in scored]))
    return [measure for measure in found if measure is not None]


def category(record: Record) -> str:
    return (record.provenance or {}).get("category") or "-"


def _mean(name: str, of: str, values: Sequence[tuple[float, Record]]) -> Measure | None:
    if not values:
        return None
    interval = over_items([value for value, _ in values], [record.conversation for _, record in values])
    return Measure(name=name, of=of, number=len(values), interval=interval)


def _weighed(name: str, of: str, statistic: Callable[[Any], Any], records: Sequence[Record]) -> Measure | None:
    """None if the statistic is not defined: nothing varies, or a label is missing."""
    interval = over_weights(statistic, [record.conversation for record in records]) if records else None
    if interval is None or interval.mean != interval.mean:
        return None
    return Measure(name=name, of=of, number=len(records), interval=interval)
