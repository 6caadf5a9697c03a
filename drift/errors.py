"""User errors: each message says what is wrong, what was expected, and what to do."""

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

MOST_LISTED = 24  # names; a longer list is not helpful
FULL = {errno.ENOSPC, errno.EDQUOT}
CANT_WRITE = FULL | {
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")  # in the messages of libraries
FULL_BYTES = 2**20  # a disk with less free space counts as full


class UserError(Exception):
    """An error that the user can correct. Shown as its message alone, without a traceback and without secrets."""

    def __str__(self) -> str:
        return mask(super().__str__())


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean X?' with the known name closest to `name`, or the list of known names if none is close and there are few."""
    known = sorted(known)
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        return f" Did you mean {close[0]}?"
    return f" Known: {', '.join(known)}." if 0 < len(known) <= MOST_LISTED else ""


def need_package(package: str, setting: str, *, extra: str) -> None:
    """Refuses a setting whose package, part of an optional extra, is not installed. (Python also finds a folder with its
    name, as a namespace package without a file.)"""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f"{setting} needs the package {package}. Install it: pip install 'drift[{extra}]'.")


@contextmanager
def memory_advice(setting: str, value: int) -> Iterator[None]:
    """Turns an out-of-memory error into one that names the setting to halve (it is never retried in silence)."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = max(1, value // 2)
        raise UserError(
            f"Out of memory with {setting}={value}. Halve it ({setting}={smaller}) and run the same command again: "
            f"finished stages are kept. ({error})"
        ) from error


@contextmanager
def loading_advice() -> Iterator[None]:
    """Turns an out-of-memory error while weights are loaded, which no smaller batch would prevent, into a UserError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "Out of memory while a model was loaded. The same command with plan=true says what takes the memory, and what would "
            f"fit; other programs may take some, too (nvidia-smi lists those on a GPU). Finished stages are kept. ({error})"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or of torch is about memory, of the machine or of a GPU."""
    text = str(error).lower()
    said = any(words in text for words in MEMORY)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


@contextmanager
def writable(folder: Path, setting: str) -> Iterator[None]:
    """Turns a file system error about writing to `folder` into a UserError with the folder and the setting that moves it. Errors
    about other files pass through."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries raise their own exceptions for a full disk
        if (reason := _unwritable(os.path.realpath(folder), error)) is None:
            raise
        raise UserError(
            f"{folder} can't be written to: {reason}. Choose another with {setting}=FOLDER, or fix that and run the same "
            "command again: finished stages are kept."
        ) from error


def unwritable(error: OSError) -> str | None:
    """A sentence on the file that can't be written, or None if the error is about something else."""
    if error.errno not in CANT_WRITE or not error.filename:
        return None
    return f"{error.filename2 or error.filename} can't be written to: {error.strerror}."


def _unwritable(folder: str, error: Exception) -> str | None:
    """Why the folder can't be written to, or None if the error is not about that."""
    if isinstance(error, OSError) and error.errno in CANT_WRITE:
        if error.filename is None:
            return error.strerror if error.errno in FULL else None
        path = os.path.realpath(os.fsdecode(error.filename))
        together = os.path.commonpath([path, folder])
        return f"{error.strerror} ({path})" if together in (path, folder) else None
    if (told := re.search(r"\(os error (\d+)\)", str(error))) and int(told[1]) in FULL:  # as in messages of Rust libraries
        return os.strerror(int(told[1]))
    under: BaseException | None = error
    while (under := under.__cause__ or under.__context__) is not None:  # the cause of a library's exception
        if isinstance(under, OSError) and under.errno in FULL and under.filename is None:
            return under.strerror
    try:
        place = next(above for above in (Path(folder), *Path(folder).parents) if above.exists())
        return "the disk is full" if shutil.disk_usage(place).free < FULL_BYTES else None
    except OSError:
        return None
