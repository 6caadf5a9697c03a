"""What is in a store, and what refers to it.

Folders refer to stages: those that have written down which they use (users.py), and every run folder that is found beside the store
or beside such a folder and has links into the store (a renamed one, or one of an earlier version). A policy refers to the stage of
its base model. Links are read, never followed out of the store; what this program did not name is left alone."""

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drift.model.adapter import BASE
from drift.report.state import RUN
from drift.store import manifest
from drift.store.lease import held
from drift.store.retention import POLICY, is_whole
from drift.store.users import RUNS, Use, counting, moved, stage_of, uses

KEY = re.compile(r"[0-9a-f]{24}")
LEFT = re.compile(r"([0-9a-f]{24})\.(?:(lease)|(progress|output|damaged)\.[0-9a-f]{16}|(gone)\.[0-9a-f]{16})"
                  r"(?:\.[0-9a-f]{16}|\.gone\.[0-9a-f]{16})?")  # fmt: skip
KINDS = {
    "progress": "saved progress",
    "output": "unfinished outputs",
    "damaged": "damaged",
    "lease": "lease",
    "gone": "half removed",
}
MOST_FOLDERS = 20_000  # looked into for run folders
DEPTH = 3  # of a run folder below the place where it is looked for


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something that the program made in a store. `stage`: NAME/KEY; `kind`: "stage", or what is wrong with it or left of it;
    `modified`: Unix time of the newest file."""

    path: Path
    stage: str
    kind: str
    bytes: int
    modified: float

    @property
    def name(self) -> str:
        return self.stage.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that uses stages. `status`: of its run."""

    path: Path
    status: str
    live: bool
    stages: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """`strangers`: what is in the store and was not made by this program. `gone`: folders that were used and are no longer there.
    `active`: stages in progress. `outdated`: uses that no longer count."""

    store: Path
    entries: Sequence[Entry]
    folders: Sequence[Folder]
    strangers: Sequence[Path]
    gone: Sequence[Path]
    outdated: Sequence[Use]
    active: frozenset[str]
    used: frozenset[str]

    @property
    def removable(self) -> list[Entry]:
        """The entries that nothing refers to: no run folder, no other stage, and no process that may be alive."""
        finished = {entry.stage for entry in self.entries if entry.kind == "stage" and is_whole(entry.path)}
        free = []
        for entry in self.entries:
            in_place = entry.path.name == entry.stage.partition("/")[2]
            needed = in_place or (entry.kind == KINDS["progress"] and entry.stage not in finished)  # to resume from
            if entry.stage not in self.active and not (needed and entry.stage in self.used):
                free.append(entry)
        return free


def take_stock(store: Path, places: Sequence[Path] = ()) -> Inventory:
    """`places`: folders in which, or below which, to look for run folders, besides those known."""
    store = store.resolve()
    found = uses(store)
    known = {use.folder for use in found}
    around = set(_run_folders([*places, store.parent, *(folder.parent for folder in known)], store))
    counted = counting(found := moved(found, around))
    entries, strangers = _contents(store)
    folders = [_folder(path, counted, store) for path in sorted(known | around)]
    folders = [folder for folder in folders if folder is not None and (folder.stages or folder.live)]
    leased = {entry.stage for entry in entries if entry.kind == KINDS["lease"] and held(entry.path)}
    active = frozenset(leased.union(*(use.stages for use in counted if use.live)))
    used = frozenset(with_bases(active.union(*(folder.stages for folder in folders)), store))
    there = {folder.path for folder in folders}
    gone = sorted({use.folder for use in found if use.folder not in there and not use.folder.exists()})
    outdated = [use for use in found if use not in counted]
    return Inventory(
        store=store, entries=entries, folders=folders, strangers=strangers, gone=gone, outdated=outdated, active=active, used=used
    )


def is_store(store: Path) -> bool:
    """Whether this program has made the folder: it holds a stage with its manifest, what is left of one, or a list of uses, or it
    was cleaned."""
    names = [path for path in store.iterdir() if path.is_dir() and not path.is_symlink() and path.name != RUNS]
    inside = [path for name in names for path in name.iterdir()]
    cleaned = (store / RUNS).is_dir() and not inside
    return cleaned or any(uses(store)) or any(LEFT.fullmatch(path.name) or _readable(path) for path in inside)


def _contents(store: Path) -> tuple[list[Entry], list[Path]]:
    entries, strangers = [], []
    for name in sorted(store.iterdir()):
        if name.name == RUNS:
            continue
        if name.is_symlink() or not name.is_dir():
            strangers.append(name)
            continue
        for path in sorted(name.iterdir()):
            with suppress(FileNotFoundError):  # a process goes on there
                entry = _entry(path)
                entries.append(entry) if entry is not None else strangers.append(path)
    return entries, strangers


def _entry(path: Path) -> Entry | None:
    """None: this program makes nothing of that name and kind."""
    left, mode = LEFT.fullmatch(path.name), path.lstat().st_mode
    if stat.S_ISLNK(mode) or not (left or (KEY.fullmatch(path.name) and stat.S_ISDIR(mode))):
        return None
    kind = KINDS[next(filter(None, left.groups()[1:]))] if left else ("stage" if _readable(path) else KINDS["damaged"])
    size, modified = _size(path)
    stage = f"{path.parent.name}/{path.name.partition('.')[0]}"
    return Entry(path=path, stage=stage, kind=kind, bytes=size, modified=modified)


def _readable(stage: Path) -> bool:
    """Whether it has its manifest and every file of it, in full length."""
    try:
        found = manifest.listed(stage) if KEY.fullmatch(stage.name) else None
        return found is not None and all((stage / name).lstat().st_size == size for name, (size, _) in found["files"].items())
    except (manifest.Damaged, OSError):
        return False


def _size(path: Path) -> tuple[int, float]:
    """(bytes, time of the newest file) of a file, or of a folder with everything in it; links count as such."""
    status = path.lstat()
    size, modified = 0 if stat.S_ISDIR(status.st_mode) else status.st_size, status.st_mtime
    files = [os.path.join(root, name) for root, _, names in os.walk(path) for name in names]
    for file in files:
        try:
            inner = os.lstat(file)
        except FileNotFoundError:
            continue
        size, modified = size + inner.st_size, max(modified, inner.st_mtime)
    return size, modified


def _run_folders(places: Iterable[Path], store: Path) -> Iterator[Path]:
    """The folders with a run.json in these places or up to DEPTH below them, without following links."""
    left = [(place.resolve(), 0) for place in dict.fromkeys(places)]
    seen: set[Path] = set()
    while left and len(seen) < MOST_FOLDERS:
        here, depth = left.pop(0)
        if here in seen or here == store:
            continue
        seen.add(here)
        if (here / RUN).is_file():
            yield here
        elif depth < DEPTH:
            try:
                inner = [Path(one.path) for one in os.scandir(here) if one.is_dir(follow_symlinks=False)]
            except OSError:
                continue
            left += [(path, depth + 1) for path in sorted(inner)]


def _folder(path: Path, counted: Sequence[Use], store: Path) -> Folder | None:
    """None if it is not there and no process that may be alive uses it."""
    own = [use for use in counted if use.folder == path]
    live = any(use.live for use in own)
    if not path.is_dir() and not live:
        return None
    stages = {stage for use in own for stage in use.stages}
    for root, folders, files in os.walk(path):
        if len(Path(root).relative_to(path).parts) == DEPTH:
            folders.clear()
        links = [Path(root, name) for name in (*folders, *files) if os.path.islink(os.path.join(root, name))]
        stages |= {stage for link in links if (stage := stage_of(link, store)) is not None}
    return Folder(path=path, status=_status(path, live), live=live, stages=frozenset(stages))


def _status(path: Path, live: bool) -> str:
    if live:
        return "running"
    try:
        status = json.loads((path / RUN).read_text(encoding="utf-8"))["status"]
        return "killed" if status == "running" else str(status)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "-"


def with_bases(stages: Iterable[str], store: Path) -> set[str]:
    """The stages, and those with the base models of their policies."""
    found, left = set(), list(stages)
    while left:
        stage = left.pop()
        if stage in found:
            continue
        found.add(stage)
        try:
            base = json.loads((store / stage / POLICY / BASE).read_text(encoding="utf-8"))["directory"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if (below := stage_of(Path(str(base)), store)) is not None:
            left.append(below)
    return found
