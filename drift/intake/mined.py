"""`drift mine`: the records of a log in a file of their own."""

from collections import Counter
from pathlib import Path
from typing import Any

from drift.console import say, table
from drift.errors import MOST_LISTED, UserError
from drift.files import create
from drift.intake.collected import Collected
from drift.mine.unread import UNREAD
from drift.records import read_jsonl, write_jsonl


def mine(run: Any, out: Path, overwrite: bool) -> None:
    """Writes the records to `out` and the rows that were set aside to NAME.quarantine.jsonl beside it; prints how many there are.
    Raises UserError, before anything is read, where a file would be lost, and where there is no record."""
    quarantine = out.with_name(f"{out.stem}.quarantine.jsonl")
    check_out(run.data.files(), out, quarantine, overwrite)
    collected = run.intake.collect(run.data, run.mine)
    out.parent.mkdir(parents=True, exist_ok=True)
    if collected.records and not overwrite:
        reserve(out)
    write_jsonl(quarantine, collected.set_aside)
    if not collected.records:
        raise UserError(why_nothing(collected, run.data.path, quarantine))
    write_jsonl(out, collected.records)
    for name, count in collected.facts.items():
        say(f"{name}: {count}")
    kinds = Counter((record.label.upper(), (record.provenance or {}).get("category") or "-") for record in collected.records)
    table([{"label": label, "category": category, "records": str(count)} for (label, category), count in sorted(kinds.items())])
    for reason, count in Counter(row["reason"] for row in collected.set_aside).most_common():
        say(f"set aside, {reason}: {count}")
    for row in [row for row in collected.set_aside if row["field"] == "(file)"][:MOST_LISTED]:
        say(f"  {row['file']}: {row['found']} ({row['remedy']})")
    say(f"{len(collected.records)} records in {out}, {len(collected.set_aside)} rows set aside in {quarantine}")


def check_out(logs: list[Path], out: Path, quarantine: Path, overwrite: bool) -> None:
    """No log is ever written over, and what another mining wrote only if that is asked for."""
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: expected a name that ends with .jsonl.")
    for file in (out, quarantine):
        if file.is_dir():
            raise UserError(f"{file} is a directory. Expected the name of a file to write.")
        if not file.exists():
            continue
        if any(log.samefile(file) for log in logs):
            raise UserError(f"--out {out} would write over {file}, which is the log itself. Give another name.")
        if not overwrite and not (file == quarantine and not out.exists() and left_by(logs, file)):
            raise UserError(f"{file} is there already. Give another name with --out, or add --overwrite to replace it.")


def reserve(out: Path) -> None:
    """Makes the file, empty: another mining may have written it since `check_out` looked."""
    try:
        create(out, b"", sync=False)
    except FileExistsError:
        raise UserError(f"{out} was written by another process meanwhile. Give another name with --out.") from None


def left_by(logs: list[Path], quarantine: Path) -> bool:
    """Whether an earlier mining of the same logs that found no record left these rows: the next try may replace them."""
    try:
        return {Path(row["file"]).name for row in read_jsonl(quarantine)} <= {log.name for log in logs}
    except (ValueError, KeyError, TypeError):
        return False


def why_nothing(collected: Collected, log: str, quarantine: Path) -> str:
    """What became of every row, by reason, and what to do."""
    lines = [f"  {name}: {count}" for name, count in collected.facts.items()]
    first = {row["reason"]: row for row in reversed(collected.set_aside)}
    for reason, count in Counter(row["reason"] for row in collected.set_aside).most_common():
        row = first[reason]
        lines.append(
            f"  set aside, {reason}: {count}; the first is row {row['row']} of {row['file']}, {row['field']}: expected "
            f"{row['expected']}, found {row['found']} ({row['remedy']})"
        )
    advice = []
    if collected.facts.get("conversations read") and not collected.facts.get("replies judged"):
        advice.append(
            "No reply has feedback, and no user turn follows one: a reply is judged by what its user clicked, wrote or said next."
        )
    elif collected.facts.get("replies judged"):
        advice.append("The users' turns hold no complaint and no praise that the miner understands.")
    if any(name.startswith(UNREAD) for name in collected.facts):
        advice.append("It reads English; for other languages the log must say itself which replies pleased and displeased.")
    aside = f"The rows that were set aside are in {quarantine}." if collected.set_aside else ""
    return "\n".join([f"No record was found in {log}, so none was written:", *lines, " ".join([*advice, aside]).strip()])
