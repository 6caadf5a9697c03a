"""Atomic writing of files and folders, safe against power cuts, and unguessable names.

Content goes to a new file beside its final place (random name, O_EXCL, so a planted link is never written through), is synced, and
is renamed. A folder is synced with all its content before it is renamed. The size, time and sha256 of its files show whether it
has changed."""

import glob
import hashlib
import os
import secrets
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

READ_ALWAYS = 16 * 2**20  # bytes; larger files are read again only if size or time has changed, or on request
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)

Seal = dict[str, tuple[int, int, str]]  # path below the folder -> size in bytes, modified in ns, sha256


def beside(path: Path, kind: str) -> Path:
    """An unused, unguessable path beside a path."""
    return path.with_name(f"{path.name}.{kind}.{secrets.token_hex(8)}")


def create(path: Path, content: bytes, *, sync: bool) -> None:
    """Writes a new file; FileExistsError if the name is taken. If writing fails, the file is removed again."""
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
    """Writes atomically: a reader, or a process after a kill or a power cut, sees the old or the new file, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
    create(temporary, content, sync=True)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def link(target: Path, name: Path) -> None:
    """Makes a relative symbolic link, or replaces it."""
    name.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(name, "link")
    temporary.symlink_to(os.path.relpath(target.resolve(), name.parent.resolve()))
    os.replace(temporary, name)


def remove_unfinished(path: Path) -> None:
    """Removes what a process that was killed while writing this file left beside it. Only for the one process that may write it
    now."""
    for left in path.parent.glob(f".{glob.escape(path.name[:200])}.*"):
        left.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Syncs one file, or the entries of one folder (which some network file systems can't do)."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(opened)


def put(folder: Path, final: Path) -> None:
    """Renames a folder into place after everything in it has been synced; OSError if a non-empty folder is in its place."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))
    os.rename(folder, final)
    sync(final.parent)
    sync(final.parent.parent)


def discard(path: Path) -> None:
    """Removes a file or a folder, as far as possible. It is renamed first, so that a process which is still writing there can't put
    an incomplete folder in place."""
    aside = beside(path, "gone") if ".gone." not in path.name else path
    with suppress(OSError):
        os.rename(path, aside)
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink()


def seal(folder: Path) -> Seal:
    """The current size, time and sha256 of the files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    statuses = {path.relative_to(folder).as_posix(): path.stat() for path in files}
    return {name: (status.st_size, status.st_mtime_ns, hash_file(folder / name)) for name, status in statuses.items()}


def damage(folder: Path, sealed: Seal, *, whole: bool) -> str | None:
    """What has changed since the folder was sealed, or None. Missing files and different sizes are always noticed; different
    content is noticed in small files and files with a different time, and with `whole` in all files. Additional files are
    ignored."""
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
    """The sha256 of a file, cached while size and time stay the same."""
    status = file.stat()
    return _hash_bytes(file, status.st_size, status.st_mtime_ns)


@cache
def _hash_bytes(file: Path, size: int, modified: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
