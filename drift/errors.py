"""What a user can get wrong, said in one place: the message names the thing, what was expected, and what to do."""

import difflib
import errno
import importlib.util
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from drift.masking import mask

MOST_LISTED = 24  # names; more are a wall
FULL = {errno.ENOSPC, errno.EDQUOT}
CANT_WRITE = FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
FULL_BYTES = 2**20  # a disk with less left is full


class UserError(Exception):
    """Something the user can put right. Shown as its message alone, without a traceback, and without secrets."""

    def __str__(self) -> str:
        return mask(super().__str__())


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the known name closest to `name`, or the list of known names when none is close and they
    are few."""
    known = sorted(known)
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        return f" Did you mean {close[0]}?"
    return f" Known: {', '.join(known)}." if 0 < len(known) <= MOST_LISTED else ""


def need_package(package: str, setting: str, *, extra: str) -> None:
    """Refuses a setting whose package, part of an optional extra, is not installed. (Python finds a folder of its name too,
    as a namespace without a file of its own.)"""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f"{setting} needs the package {package}. Install it: pip install 'drift[{extra}]'.")


@contextmanager
def memory_advice(setting: str, value: int) -> Iterator[None]:
    """Turns an out-of-memory error into one that names the setting to halve (it is never retried in silence)."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        smaller = max(1, value // 2)
        raise UserError(
            f"Out of memory with {setting}={value}. Halve it ({setting}={smaller}) and give the same command again: "
            f"finished stages are kept. ({error})"
        ) from error


@contextmanager
def writable(folder: Path, setting: str) -> Iterator[None]:
    """Turns an error of the file system, where it is `folder` that can't be written to, into one that names the folder and the
    setting that puts it elsewhere. Errors about other files pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries have exceptions of their own for a full disk
        if (reason := _unwritable(os.path.realpath(folder), error)) is None:
            raise
        raise UserError(
            f"{folder} can't be written to: {reason}. Put it elsewhere with {setting}=FOLDER, or mend that and give the same "
            "command again: finished stages are kept."
        ) from error


def _unwritable(folder: str, error: Exception) -> str | None:
    """Why, or None if the error is not about writing there."""
    if isinstance(error, OSError) and error.errno in CANT_WRITE:
        if error.filename is None:
            return error.strerror if error.errno in FULL else None
        path = os.path.realpath(os.fsdecode(error.filename))
        together = os.path.commonpath([path, folder])
        return f"{error.strerror} ({path})" if together in (path, folder) else None
    if (told := re.search(r"\(os error (\d+)\)", str(error))) and int(told[1]) in FULL:  # as Rust's libraries say it
        return os.strerror(int(told[1]))
    under: BaseException | None = error
    while (under := under.__cause__ or under.__context__) is not None:  # what a library made something of
        if isinstance(under, OSError) and under.errno in FULL and under.filename is None:
            return under.strerror
    try:
        place = next(above for above in (Path(folder), *Path(folder).parents) if above.exists())
        return "the disk is full" if shutil.disk_usage(place).free < FULL_BYTES else None
    except OSError:
        return None
