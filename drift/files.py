"""Files and folders that are there whole or not at all, also after a power cut, and names that nobody can guess.

What is written goes to a new file beside its place (random name, O_EXCL: a link that somebody planted is never written through), is
synced, and is renamed. A folder is synced with all that it holds before it is renamed. Whether it is still what it was is told by
size, time and sha256 of its files.
"""

import glob
import hashlib
import os
import secrets
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

READ_ALWAYS = 16 * 2**20  # bytes; larger files are read again only where size or time changed, or on request
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)

Seal = dict[str, tuple[int, int, str]]  # path below the folder -> size in bytes, modified in ns, sha256


def beside(path: Path, kind: str) -> Path:
    """A name beside a path that nobody can guess and nothing has."""
    return path.with_name(f"{path.name}.{kind}.{secrets.token_hex(8)}")


def create(path: Path, content: bytes, *, sync: bool) -> None:
    """A new file: FileExistsError if anything has that name. If it can't be written, it is gone again."""
    file = os.open(path, NEW, 0o666)
    try:
        with open(file, "wb") as opened:
            opened.write(content)
            opened.flush()
            if sync:
                os.fsync(opened.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace(path: Path, content: bytes) -> None:
    """Writes atomically: a reader, or a process after a kill or a power cut, sees the old file or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
    create(temporary, content, sync=True)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(path: Path) -> None:
    """What a process that was killed while it wrote this file has left beside it; only for who alone may write it now."""
    for left in path.parent.glob(f".{glob.escape(path.name[:200])}.*"):
        left.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """One file or the entries of one folder. Some network file systems can't sync a folder."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(opened)


def put(folder: Path, final: Path) -> None:
    """Renames a folder into place once everything in it is on the disk; OSError if something with content is there."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))
    os.rename(folder, final)
    sync(final.parent)
    sync(final.parent.parent)


def discard(path: Path) -> None:
    """Removes a file or a folder, as far as that can be done. It is renamed first: whoever still writes there has lost it and can't
    put a part of it in place."""
    aside = beside(path, "gone") if ".gone." not in path.name else path
    with suppress(OSError):
        os.rename(path, aside)
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink()


def seal(folder: Path) -> Seal:
    """What the files in a folder are now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {path.relative_to(folder).as_posix(): path.stat() for path in files}
    return {name: (status.st_size, status.st_mtime_ns, hash_file(folder / name)) for name, status in found.items()}


def damage(folder: Path, sealed: Seal, *, whole: bool) -> str | None:
    """What is not as it was, or None. Files of other sizes and missing ones are always found, other content in files that are small
    or have another time, and with `whole` in all. Further files are nobody's business."""
    for name, (size, modified, sha256) in sealed.items():
        try:
            status = (folder / name).stat()
            if status.st_size != size:
                return f"{name} has {status.st_size} bytes instead of {size}"
            if (whole or size <= READ_ALWAYS or status.st_mtime_ns != modified) and hash_file(folder / name) != sha256:
                return f"the content of {name} has changed"
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        except IsADirectoryError:
            return f"{name} is a folder"
    return None


def hash_file(file: Path) -> str:
    """sha256 of a file, remembered while size and time stay the same."""
    status = file.stat()
    return _hash_bytes(file, status.st_size, status.st_mtime_ns)


@cache
def _hash_bytes(file: Path, size: int, modified: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
