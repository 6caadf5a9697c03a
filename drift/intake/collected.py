"""What every data set returns: records, the rows it set aside with the reasons, and facts for the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drift.mine.unread import UNREAD
from drift.records import Record

ASIDE = "set aside: "  # and the reason, in the counts
SHOWN_ROWS, SHOWN_LANGUAGES = 3, 6  # on the console


@dataclass(frozen=True, kw_only=True)
class Collected:
    """`set_aside`: rows {"file", "row", "field", "expected", "found"} that were not used. `facts`: label -> count or text."""

    records: list[Record]
    set_aside: list[dict[str, Any]]
    facts: dict[str, Any]


def said_of(counts: Mapping[str, Any], set_aside: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the console says of a log that was read: the counts, and the first of the rows that were set aside."""
    unread = {name.removeprefix(UNREAD): count for name, count in counts.items() if name.startswith(UNREAD)}
    told = [f"{count} {name}" for name, count in counts.items() if not name.startswith(UNREAD)]
    lines = ["Feedback: " + ", ".join(told)]
    if unread:
        most = sorted(unread, key=lambda code: -unread[code])[:SHOWN_LANGUAGES]
        listed = ", ".join(f"{code} {unread[code]}" for code in most) + ", …" * (len(unread) > len(most))
        lines.append(f"  {sum(unread.values())} {UNREAD}other languages: {listed}")
    rows, total = set_aside[:SHOWN_ROWS], sum(count for name, count in counts.items() if name.startswith(ASIDE))
    lines += ["  " + ASIDE + ", ".join(f"{name} {value}" for name, value in row.items()) for row in rows]
    if total > len(rows):
        lines.append(f"  … and {total - len(rows)} more; all of them stand in quarantine.jsonl of the run")
    return lines


def no_records_message(facts: Mapping[str, Any], set_aside: Sequence[Mapping[str, Any]]) -> str:
    """The error message for a log without a single usable record."""
    counts = "; ".join(f"{name}: {count}" for name, count in facts.items())
    if not set_aside:
        return f"No usable record: no user said whether a reply was good ({counts}). docs/log-format.md lists what is read."
    first, reasons = set_aside[0], Counter(row["reason"] for row in set_aside)
    where = f"{first['file']}, row {first['row']}" if "file" in first else f"record {first['record']}"
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return (
        f"No usable record: all {len(set_aside)} rows were set aside ({why}). "
        f"The first is {where}, {first['field']}: expected {first['expected']}, found {first.get('found', 'nothing')}"
        + (f" ({first['remedy']})" if "remedy" in first else "")
        + f". ({counts})"
    )
