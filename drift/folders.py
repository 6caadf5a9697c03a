"""A run folder has one owner: the process with the lock on `.owner`, a file with a digest of the run's settings.

If its folder is owned by a running process, or was made with other settings, a run takes the next free one of FOLDER-2, FOLDER-3,
… If the folder was left by a run with the same settings (killed, stopped or finished), it is taken over, and the files of that run
are removed. The system releases the lock when the process ends, however it ends. A folder without an owner is taken only if
nothing in it would be overwritten."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from drift.console import say
from drift.errors import UserError, writable
from drift.records import digest

OWNER = ".owner"
WRITTEN = (  # by a run or a sweep
    "run.json", "config.yaml", "multirun.yaml", "report.html", "libraries.log", "records.jsonl", "quarantine.jsonl",
    "leakage.jsonl", "steps.csv", "scores.csv", "iteration_*", "warm_start", "command.json", "ranks", "ranks.log",
)  # fmt: skip


@contextmanager
def owned(folder: Path, settings: Any, key: str) -> Iterator[Path]:
    """The folder to write to, `folder` or a numbered one, which this process owns until the context ends. `settings`: plain data
    that identifies the run. `key`: the setting for the folder, named in the UserError if the folder can't be written to."""
    folder = folder.absolute()
    with writable(folder, key):
        wanted = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
        taken, lock = next(result for candidate in wanted if (result := _take(candidate, digest(settings))) is not None)
    if taken != folder:
        say(f"Note: {folder} belongs to another run; this one is in {taken}.")
    try:
        with writable(taken, key):
            yield taken
    finally:
        os.close(lock)


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Owns a folder that has its config.yaml already, and removes what an earlier run with the same settings wrote there. Refuses
    a folder with other files that a run would write: they may be the user's own, or another run's."""
    with writable(folder, "RUN_DIR"):
        lock = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        if not _locked(lock, new=True):
            raise UserError(f"Another process is running in {folder}.")
        with writable(folder, "RUN_DIR"):
            settings = digest((folder / "config.yaml").read_text(encoding="utf-8")).encode()
            left_here = [path for path in _written(folder) if path.name not in ("config.yaml", "command.json", "ranks.log")]
            foreign = [path.name for path in left_here if path.name != "ranks"]  # the other ranks may have begun
            if foreign and os.pread(lock, 100, 0) != settings:
                raise UserError(
                    f"{folder} contains {foreign[0]}, which a run with this config.yaml would replace and did not write: it is "
                    "yours, or from a run with other settings. Give a folder with config.yaml alone."
                )
            os.ftruncate(lock, 0)
            os.pwrite(lock, settings, 0)
            for left in left_here:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield
    finally:
        os.close(lock)


def _take(folder: Path, settings: str) -> tuple[Path, int] | None:
    """The folder and its open lock, or None if it belongs to another run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / OWNER
    if path.is_symlink() or (not path.exists() and _written(folder)):
        return None  # copied here, from an old version, or a user's own files; links are not trusted
    try:
        lock, new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        lock, new = os.open(path, os.O_RDWR | os.O_NOFOLLOW), False
    if _locked(lock, new) and (owner := os.pread(lock, 100, 0)) in (b"", settings.encode()):
        left_here = _written(folder)
        if not owner and left_here:  # after a power cut: the owner is unknown
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
    except OSError:  # a file system without locks: an owner may be alive, so only a new folder is taken
        return new
    return True
