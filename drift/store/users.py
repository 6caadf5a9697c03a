"""Which folders use which stages: every process that computes for a folder (of a run, mostly) keeps a file of them in the store.

DIR/runs/TOKEN.use     a line about the folder and its process; then NAME/KEY, a line for every stage that it has asked for; at last
                       `finished`, or `ended` if it failed or was stopped. Its time is renewed until then.
DIR/runs/removal.lease while something is being removed from the store

A stage is written down before it is looked for, so a killed run has named all that it will look for again. Who removes stages takes
the lease first and reads these files then; who asks for a stage writes first and looks for the lease then. So either the remover
sees the name, or the asker waits until the stage is gone, and computes it. The file is synced before a stage that was computed is
put in place."""

import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drift.files import create
from drift.folders import OWNER
from drift.store.lease import holder_of_this_process, lease, may_live

RUNS, SUFFIX = "runs", ".use"
FINISHED, ENDED = "finished", "ended"
STAGE = re.compile(r"[\w.-]+/[0-9a-f]{24}")
REMOVAL_SECONDS = 60.0  # without a sign of life of the remover


class User:
    """This process, as a user of a store for `folder`. `seconds`: a sign of life is given five times in that time. In a store that
    can't be written to nothing is written down: nothing can be removed there."""

    def __init__(self, store: Path, folder: Path, seconds: float) -> None:
        me = holder_of_this_process()
        self.folder = folder
        self.store, self.file = store.resolve(), store.resolve() / RUNS / f"{me['token']}{SUFFIX}"
        self.noted: set[str] = set()
        self.ended = threading.Event()
        header = {"folder": str(folder.resolve()), "settings": owner_of(folder), "begun": time.time(), "process": me}
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            create(self.file, json.dumps(header).encode() + b"\n", sync=False)
        threading.Thread(target=self._renew, args=(seconds / 5,), daemon=True).start()

    def note(self, stage: str) -> None:
        """Writes down NAME/KEY."""
        if stage not in self.noted:
            self.noted.add(stage)
            self._append(f"{stage}\n", sync=False)

    def note_path(self, path: Path) -> None:
        """The same for the stage that a path leads into; any other path is of no interest here."""
        if (stage := stage_of(path, self.store)) is not None:
            self.note(stage)

    def sync(self) -> None:
        self._append("", sync=True)

    def end(self, *, finished: bool) -> None:
        self.ended.set()
        self._append(f"{FINISHED if finished else ENDED}\n", sync=True)

    def _append(self, text: str, *, sync: bool) -> None:
        with suppress(OSError), open(os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW), "ab", buffering=0) as file:
            file.write(text.encode())
            if sync:
                os.fsync(file.fileno())

    def _renew(self, every: float) -> None:
        while not self.ended.wait(every):
            with suppress(OSError):
                os.utime(self.file, follow_symlinks=False)


def used_together(stores: Iterable[Any], folder: Path) -> list[User]:
    """As `Store.used_by`, for several stores that work for one folder: one use a directory, so that all of it ends at once."""
    users: dict[Path, User] = {}
    for store in stores:
        place = Path(store.dir).resolve()
        if place in users:
            store.users.append(users[place])
        else:
            users[place] = store.used_by(folder)
    return list(users.values())


@dataclass(frozen=True, kw_only=True)
class Use:
    """What one process has written down. `settings`: identifies those of its run ("": unknown); `begun`: Unix time; `live`: the
    process may still be alive."""

    file: Path
    folder: Path
    settings: str
    begun: float
    live: bool
    finished: bool
    stages: frozenset[str]

    @property
    def counts(self) -> bool:
        """Whether its stages are in use: the folder is still there, and belongs to a run of the same settings."""
        if self.live:
            return True
        try:
            there = any(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # another user's, or not reachable at the moment
            return True
        return there and ("" in (self.settings, owner_of(self.folder)) or self.settings == owner_of(self.folder))


def uses(store: Path) -> list[Use]:
    """All uses of a store, as they are on disk, the earliest first."""
    found = (_read(file) for file in sorted((store / RUNS).glob(f"*{SUFFIX}")))
    return sorted((use for use in found if use is not None), key=lambda use: use.begun)


def counting(found: list[Use]) -> list[Use]:
    """Those that count: an earlier one of the same folder does not, if a later one came to its end."""
    last = {use.folder: i for i, use in enumerate(found) if use.finished}
    return [use for i, use in enumerate(found) if use.counts and (use.live or i >= last.get(use.folder, 0))]


def moved(found: list[Use], folders: Iterable[Path]) -> list[Use]:
    """The uses, those of a folder that is gone as uses of a folder of the same settings: it was renamed. `folders`: of runs."""
    there = {owner: folder for folder in folders if (owner := owner_of(folder))}
    return [
        replace(use, folder=there[use.settings]) if use.settings in there and not os.path.lexists(use.folder) else use
        for use in found
    ]


@contextmanager
def removing(store: Path) -> Iterator[None]:
    """While this is held, whoever asks for a stage waits."""
    with lease(store / RUNS / "removal", REMOVAL_SECONDS, lambda: False):
        yield


def wait_for_removal(store: Path) -> None:
    if os.path.lexists(store / RUNS / "removal.lease"):
        with removing(store):
            pass


def stage_of(path: Path, store: Path) -> str | None:
    """NAME/KEY of the stage that a path lies in, or leads into; None if that is no stage of this store."""
    try:
        parts = path.resolve().relative_to(store).parts
    except (ValueError, OSError, RuntimeError):  # elsewhere, or a link in a circle
        return None
    stage = "/".join(parts[:2])
    return stage if STAGE.fullmatch(stage) else None


def owner_of(folder: Path) -> str:
    """What identifies the settings of the run in a folder; "" if that is unknown."""
    try:
        with open(os.open(folder / OWNER, os.O_RDONLY | os.O_NOFOLLOW), encoding="ascii") as file:
            return file.read(100)
    except (OSError, ValueError):
        return ""


def _read(file: Path) -> Use | None:
    """None: it is not what a process writes, or was removed a moment ago."""
    try:
        if file.is_symlink():
            return None
        modified = file.stat().st_mtime
        first, *lines = file.read_text(encoding="utf-8").split("\n")
        header: dict[str, Any] = json.loads(first)
        return Use(
            file=file,
            folder=Path(header["folder"]),
            settings=header["settings"],
            begun=float(header["begun"]),
            live=not {FINISHED, ENDED} & set(lines) and may_live(header["process"], modified),
            finished=FINISHED in lines,
            stages=frozenset(line for line in lines if STAGE.fullmatch(line)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
