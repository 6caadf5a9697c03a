"""Removes from a store what nothing refers to: first it is renamed, while nobody can begin to use it, then it is deleted."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drift.files import beside, discard
from drift.store.inventory import Entry, with_bases
from drift.store.lease import held
from drift.store.users import Use, counting, removing, uses


@dataclass(frozen=True, kw_only=True)
class Removed:
    """`kept`: what somebody began to use meanwhile. `failed`: what could not be removed -> why."""

    entries: Sequence[Entry]
    kept: Sequence[Entry]
    failed: dict[Path, str]


def remove(store: Path, entries: Sequence[Entry], known: frozenset[str], outdated: Sequence[Use]) -> Removed:
    """Removes entries that were free a moment ago. `known`: what was in use then; `outdated`: the uses that no longer counted."""
    gone: list[tuple[Entry, Path]] = []
    kept: list[Entry] = []
    failed: dict[Path, str] = {}
    with removing(store):
        counted = counting(uses(store))
        used = with_bases(frozenset().union(*(use.stages for use in counted)), store) - known
        for entry in entries:
            if entry.stage in used or held(store / f"{entry.stage}.lease"):
                kept.append(entry)
                continue
            aside = entry.path if ".gone." in entry.path.name else beside(entry.path, "gone")
            try:
                os.rename(entry.path, aside)
                gone.append((entry, aside))
            except FileNotFoundError:  # another process has taken it
                kept.append(entry)
            except OSError as error:
                failed[entry.path] = error.strerror or str(error)
        still = {use.file for use in counted}
        for use in outdated:
            if use.file not in still:
                use.file.unlink(missing_ok=True)
    for _, aside in gone:
        discard(aside)
        if os.path.lexists(aside):
            failed[aside] = "it, or something in it, may not be deleted"
    return Removed(entries=[entry for entry, aside in gone if aside not in failed], kept=kept, failed=failed)
