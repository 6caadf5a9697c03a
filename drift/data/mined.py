"""`python -m drift mine`: the records of a log in a file of their own."""

from collections import Counter
from pathlib import Path
from typing import Any

from drift.records import write_jsonl
from drift.report.console import say, table


def mine(run: Any, out: Path) -> None:
    """Writes the records to `out` and the rows that were set aside to quarantine.jsonl beside it; prints how many there are."""
    collected = run.intake.collect(run.data, run.mine)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(out, collected.records)
    quarantine = out.with_name("quarantine.jsonl")
    write_jsonl(quarantine, collected.set_aside)
    for name, count in collected.facts.items():
        say(f"{name}: {count}")
    kinds = Counter((record.label.upper(), (record.provenance or {}).get("category") or "-") for record in collected.records)
    if kinds:
        table([{"label": label, "category": category, "records": str(count)} for (label, category), count in sorted(kinds.items())])
    for reason, count in Counter(row["reason"] for row in collected.set_aside).most_common():
        say(f"set aside, {reason}: {count}")
    say(f"{len(collected.records)} records in {out}, {len(collected.set_aside)} rows set aside in {quarantine}")
