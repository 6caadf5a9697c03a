"""Run folders have one owner: the process that holds the lock on `.owner`, a file that says for which settings the folder is.

A run that finds its folder owned by a living run, or made with other settings, takes the next free one of FOLDER-2, FOLDER-3, …;
one that finds it left behind by a run of the same settings (killed, stopped or finished) takes it over and removes what that run
wrote. The system drops the lock with its process, however that ends, so no folder stays locked. A folder without an owner is taken
if it holds nothing that would be written over.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from drift.console import say
from drift.errors import writable
from drift.records import digest

OWNER = ".owner"
WRITTEN = (  # by a run or a sweep
    "run.json", "config.yaml", "multirun.yaml", "report.html", "libraries.log", "records.jsonl", "quarantine.jsonl",
    "leakage.jsonl", "steps.csv", "scores.csv", "iteration_*", "warm_start",
)  # fmt: skip


@contextmanager
def owned(folder: Path, settings: Any, key: str) -> Iterator[Path]:
    """The folder to write to, `folder` or a numbered one; it is this process's until the context ends. `settings`: plain data that
    says what the folder is for. `key`: the setting that names the folder; UserError with it where nothing can be written."""
    folder = folder.absolute()
    with writable(folder, key):
        wanted = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
        mine, lock = next(found for candidate in wanted if (found := _take(candidate, digest(settings))) is not None)
    if mine != folder:
        say(f"Note: {folder} belongs to another run; this one is in {mine}.")
    try:
        with writable(mine, key):
            yield mine
    finally:
        os.close(lock)


def _take(folder: Path, settings: str) -> tuple[Path, int] | None:
    """The folder and its open lock, or None if it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / OWNER
    if path.is_symlink() or (not path.exists() and _written(folder)):
        return None  # copied here, or made before folders had owners, or a user's own files; a link is nobody's word
    try:
        lock, new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        lock, new = os.open(path, os.O_RDWR | os.O_NOFOLLOW), False
    if _locked(lock, new) and (owner := os.pread(lock, 100, 0)) in (b"", settings.encode()):
        left_here = _written(folder)
        if not owner and left_here:  # after a power cut: nobody knows whose they are
            os.close(lock)
            return None
        os.pwrite(lock, settings.encode(), 0)
        os.fsync(lock)
        for left in left_here:
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        return folder, lock
    os.close(lock)
    return None


def _written(folder: Path) -> list[Path]:
    return [path for pattern in WRITTEN for path in folder.glob(pattern)]


def _locked(lock: int, new: bool) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody can tell whether an owner lives, so only a new folder is taken
        return new
    return True
