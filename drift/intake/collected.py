"""What every data set returns: records, the rows it set aside with the reasons, and facts for the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drift.records import Record


@dataclass(frozen=True, kw_only=True)
class Collected:
    """`set_aside`: rows {"file", "row", "field", "expected", "found"} that were not used. `facts`: label -> count or text."""

    records: list[Record]
    set_aside: list[dict[str, Any]]
    facts: dict[str, Any]


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
