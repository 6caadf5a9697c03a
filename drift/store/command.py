"""`drift store`: what is in a store, by stage and by run; what nothing refers to; removes that."""

import re
import shlex
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from drift.console import say, table
from drift.errors import UserError
from drift.store.disk import in_bytes
from drift.store.inventory import Entry, Inventory, is_store, take_stock
from drift.store.removal import remove

HOURS = {"h": 1, "d": 24, "w": 168}
MOST_SHOWN = 30  # lines of single entries


def store(folder: Path, places: Sequence[Path], *, older_than: str | None, unused: bool, delete: bool) -> None:
    """`older_than`: a number of hours, days or weeks; `unused`: whatever its age. Without `delete` nothing changes on the disk.
    Raises `UserError` if the folder is not a store, or if something could not be removed."""
    if delete and not (unused or older_than):
        raise UserError("--delete: what shall be removed? Add --unused, or --older-than 14d for what is older than that.")
    hours = None if older_than is None else _hours(older_than)
    stock = _stock(folder, places)
    now = time.time()
    chosen = [entry for entry in stock.removable if hours is None or now - entry.modified > 3600 * hours]
    if not (unused or hours):
        show(stock)
        _advise(stock, folder)
    elif not delete:
        show_entries(chosen, now)
        say(f"Dry run: {_count(chosen)} would be removed. Nothing is removed without --delete.")
    else:
        _remove(stock, chosen)


def _stock(folder: Path, places: Sequence[Path]) -> Inventory:
    for place in (folder, *places):
        if not place.is_dir():
            raise UserError(
                f"{place} is not a folder. Expected {'a store, as in store.dir' if place is folder else 'run folders'}."
            )
    try:
        if not is_store(folder.resolve()):
            raise UserError(f"{folder} is not a store: no stage of this program is in it. Expected the folder of store.dir.")
        return take_stock(folder, places)
    except PermissionError as error:
        raise UserError(f"{error.filename} can't be read: {error.strerror}. The store belongs to another user?") from error


def show(stock: Inventory) -> None:
    """Sizes by stage and by folder, and what does not belong to a run."""
    free = {entry.path for entry in stock.removable}
    say(f"{stock.store}: {size(stock.entries)} in {_number(len(stock.entries), 'entry', 'entries')}")
    if stock.entries:
        say("\nBy stage:")
        table([_row(name, [e for e in stock.entries if e.name == name], free) for name in _names(stock.entries)])
    if stock.folders:
        say("\nBy folder of a run:")
        table(_by_folder(stock))
        say("  alone: what no other folder refers to, and what is freed when this folder is deleted and the store is cleaned.")
    damaged = [entry for entry in stock.entries if entry.kind == "damaged" and entry.path not in free]
    for entry in damaged[:MOST_SHOWN]:
        say(f"Damaged, and used: {entry.path} ({size([entry])}). The next run that needs it computes it again.")
    if stock.active:
        say(f"\nIn progress: {_number(len(stock.active), 'stage', 'stages')} of processes that may be alive. They are not touched.")
    if stock.gone:
        listed = ", ".join(map(str, stock.gone[:3])) + (", …" if len(stock.gone) > 3 else "")
        say(f"{_number(len(stock.gone), 'folder', 'folders')} that used this store can't be found: {listed}")
    if stock.strangers:
        listed = ", ".join(map(str, stock.strangers[:3])) + (", …" if len(stock.strangers) > 3 else "")
        say(f"Not made by this program, and left alone: {listed}")


def _advise(stock: Inventory, folder: Path) -> None:
    free, command = stock.removable, f"drift store {shlex.quote(str(folder))}"
    if not free:
        say("\nEverything is in use: nothing could be removed.")
        return
    say(f"\nNothing refers to {_count(free)}. To see each: {command} --unused. To remove them: {command} --unused --delete")
    say("If you have moved run folders elsewhere, name the place first, so that their stages count as used: --runs FOLDER")


def show_entries(entries: Sequence[Entry], now: float) -> None:
    """The largest first."""
    rows = sorted(entries, key=lambda entry: -entry.bytes)
    shown = [
        {"what": entry.kind, "size": size([entry]), "age": age(now - entry.modified), "where": str(entry.path)}
        for entry in rows[:MOST_SHOWN]
    ]
    if shown:
        table(shown)
    if len(rows) > MOST_SHOWN:
        say(f"  … and {len(rows) - MOST_SHOWN} more: {size(rows[MOST_SHOWN:])}")


def _remove(stock: Inventory, chosen: Sequence[Entry]) -> None:
    removed = remove(stock.store, chosen, stock.used, stock.outdated)
    say(f"Removed: {_count(removed.entries)}.")
    if removed.kept:
        say(f"Left: {_count(removed.kept)}, because a process has begun to use them.")
    if removed.failed:
        path, why = next(iter(removed.failed.items()))
        raise UserError(f"{_number(len(removed.failed), 'entry', 'entries')} could not be removed; the first is {path}: {why}.")


def _row(name: str, entries: Sequence[Entry], free: set[Path]) -> dict[str, str]:
    unused = [entry for entry in entries if entry.path in free]
    left = [entry for entry in entries if entry.kind != "stage"]
    whole = [entry for entry in entries if entry.kind == "stage"]
    row = {"stage": name, "finished": str(len(whole)), "size": size(whole), "left over": str(len(left)), "their size": size(left)}
    return row | {"unused": size(unused)}


def _by_folder(stock: Inventory) -> list[dict[str, str]]:
    stages = {entry.stage: entry for entry in stock.entries if entry.kind == "stage"}
    rows = []
    for folder in stock.folders:
        others = frozenset().union(*(other.stages for other in stock.folders if other is not folder))
        mine = [stages[stage] for stage in folder.stages if stage in stages]
        alone = [entry for entry in mine if entry.stage not in others]
        row = {"status": folder.status, "stages": str(len(mine)), "size": size(mine), "alone": size(alone)}
        rows.append({"folder": str(folder.path)} | row)
    return rows


def _names(entries: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.name for entry in entries))


def _count(entries: Sequence[Entry]) -> str:
    return f"{_number(len(entries), 'entry', 'entries')}, {size(entries)}"


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def size(entries: Iterable[Entry]) -> str:
    return in_bytes(sum(entry.bytes for entry in entries))


def age(seconds: float) -> str:
    hours = max(0.0, seconds) / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"


def _hours(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([hdw])", text)
    if found is None or not int(found[1]):
        raise UserError(f"--older-than {text}: expected a number of hours, days or weeks, such as 36h, 14d or 8w.")
    return int(found[1]) * HOURS[found[2]]
