"""`drift mine`: writes the records of a log to a file."""

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
    """Writes the records to `out` and the rows that were set aside to NAME.quarantine.jsonl beside it; prints counts. Raises
    UserError if a file would be lost (before anything is read), or if there is no record."""
    quarantine = out.with_name(f"{out.stem}.quarantine.jsonl")
    check_output(run.data.files(), out, quarantine, overwrite)
    collected = run.intake.collect(run.data, run.mine)
    out.parent.mkdir(parents=True, exist_ok=True)
    if collected.records and not overwrite:
        reserve(out)
    write_jsonl(quarantine, collected.set_aside)
    if not collected.records:
        raise UserError(explain_no_records(collected, run.data.path, quarantine))
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


def check_output(logs: list[Path], out: Path, quarantine: Path, overwrite: bool) -> None:
    """Refuses to overwrite a log, and, without --overwrite, the output of an earlier `drift mine`."""
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: expected a name that ends with .jsonl.")
    for file in (out, quarantine):
        if file.is_dir():
            raise UserError(f"{file} is a directory. Expected the name of a file to write.")
        if not file.exists():
            continue
        if any(log.samefile(file) for log in logs):
            raise UserError(f"--out {out} would overwrite {file}, which is the log itself. Give another name.")
        if not overwrite and not (file == quarantine and not out.exists() and left_by_failed_mining(logs, file)):
            raise UserError(f"{file} already exists. Give another name with --out, or add --overwrite to replace it.")


def reserve(out: Path) -> None:
    """Creates the file, empty, so that another process which created it since `check_output` is noticed."""
    try:
        create(out, b"", sync=False)
    except FileExistsError:
        raise UserError(f"{out} has meanwhile been written by another process. Give another name with --out.") from None


def left_by_failed_mining(logs: list[Path], quarantine: Path) -> bool:
    """Whether these rows were left by an earlier attempt that found no record in the same logs, which may be replaced."""
    try:
        return {Path(row["file"]).name for row in read_jsonl(quarantine)} <= {log.name for log in logs}
    except (ValueError, KeyError, TypeError):
        return False


def explain_no_records(collected: Collected, log: str, quarantine: Path) -> str:
    """The error message: what became of the rows, by reason, and what to do."""
    lines = [f"  {name}: {count}" for name, count in collected.facts.items()]
    first = {row["reason"]: row for row in reversed(collected.set_aside)}
    for reason, count in Counter(row["reason"] for row in collected.set_aside).most_common():
        row = first[reason]
        lines.append(
            f"  set aside, {reason}: {count}; the first is row {row['row']} of {row['file']}, {row['field']}: expected "
            f"{row['expected']}, found {row['found']} ({row['remedy']})"
        )
    advice = []
    silent = collected.facts.get("conversations without feedback")
    if silent and not collected.facts.get("replies classified"):
        advice.append(
            "No reply has feedback or is followed by a user turn. Labels come from what the user clicked, commented or said next."
        )
    elif silent:
        advice.append("The user turns contain no complaint or praise that the miner understands.")
    if any(name.startswith(UNREAD) for name in collected.facts):
        advice.append(
            "The miner reads English only; in other languages the log itself must mark the replies that users liked and disliked."
        )
    aside = f"The rows that were set aside are in {quarantine}." if collected.set_aside else ""
    return "\n".join([f"No record was found in {log}, so none was written:", *lines, " ".join([*advice, aside]).strip()])
