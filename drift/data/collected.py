"""What every data set hands over: records, the rows it set aside with their reasons, and facts for the report."""

from dataclasses import dataclass
from typing import Any

from drift.records import Record


@dataclass(frozen=True, kw_only=True)
class Collected:
    """`set_aside`: rows {"file", "row", "field", "expected", "found"} that were not used. `facts`: label -> count or text."""

    records: list[Record]
    set_aside: list[dict[str, Any]]
    facts: dict[str, Any]
