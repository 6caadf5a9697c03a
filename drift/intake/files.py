"""The files that `data.path` means, what they are called in records, and what is in them. A hub is never contacted.

Only regular files are opened, and links to them: a pipe would wait for ever, a device never end.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.intake.aside import Aside, printable

TEXTS = (".json", ".jsonl", ".ndjson")
SUFFIXES = (*TEXTS, *(f"{suffix}.gz" for suffix in TEXTS), ".parquet", ".arrow")
NO_LOG = (".md", ".html", ".txt", ".py", ".yaml", ".yml")  # what lies beside logs and is none
SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")  # what datasets.save_to_disk writes beside its .arrow files
PIECE = 1 << 20  # bytes hashed at once
KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"))


def files(path: str, pattern: str, *, config: str | None = None, split: str | None = None) -> list[Path]:
    """A file as it is; of a directory, or of a hub data set that is in the local cache, those whose names match `pattern`. `config`
    and `split` choose of a hub data set (see drift/intake/hub.py); of a directory `split` is a part of the file names."""
    local = _local(path)
    if config is not None and os.path.lexists(local):
        raise UserError(f"data.config={config} chooses of a hub data set, and {path} is a file or directory. Leave it out.")
    if os.path.isfile(local):
        if not readable(local):
            raise UserError(f"data.path={path}: expected a file that ends with {', '.join(SUFFIXES)}.")
        return [local]
    if not os.path.isdir(local):
        if os.path.lexists(local):
            raise UserError(f"data.path={path} is {odd(local)}. Expected a file or a directory.")
        from drift.intake.hub import cached

        chosen = cached(path, config, split)
        if isinstance(chosen, list):
            return chosen
        local = chosen
    pattern = pattern if split is None else f"*{split}*"
    found = [file for file in _all(local) if readable(file) and file.match(pattern) and odd(file) is None]
    tables = {file.parent for file in found if file.name.lower().endswith(".arrow")}
    found = [file for file in found if file.name not in SAVED or not any(file.parent in (at, *at.parents) for at in tables)]
    if not found:
        raise UserError(f"data.path={path}: no file named {pattern} in {local}. Expected one that ends with {', '.join(SUFFIXES)}.")
    return found


def _local(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.path={path}: there is no such user. Give the path of the file.") from error


def _all(folder: Path) -> list[Path]:
    """Everything in a folder and below, but for folders that are not named like a log; links to folders are not followed."""
    found = []
    for at, folders, names in os.walk(folder):
        named = [name for name in folders if os.path.islink(os.path.join(at, name)) or readable(Path(name))]
        found += [Path(at, name) for name in [*names, *named]]
    return sorted(found)


def odd(file: Path) -> str | None:
    """What stands under a name that is no regular file which may be read, nor a link to one; None for such a file."""
    try:
        mode = os.stat(file).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads to itself"
        return "a link to nothing" if error.errno == errno.ENOENT and os.path.islink(file) else str(error.strerror)
    if not stat.S_ISREG(mode):
        kind = next((kind for test, kind in KINDS if test(mode)), "a device")
        return f"a link to {kind}" if os.path.islink(file) else kind
    return None if os.access(file, os.R_OK) else "a file that you may not read"


def readable(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)


def name_of(file: Path, path: str | None) -> str:
    """What a file is called in records: its place in the directory `path` or in the hub data set, so that two files of one name
    are two."""
    root = None if path is None else _local(path)
    if root is not None and root.is_dir():
        return printable(file.relative_to(root).as_posix())
    if "snapshots" in file.parts:
        return printable("/".join(file.parts[file.parts.index("snapshots") + 2 :]))
    return printable(file.name)


def not_read(path: str | None, used: Collection[Path]) -> Iterator[Aside]:
    """What a user's directory holds that no reader takes, because of how it is named or what it is."""
    root = None if path is None else _local(path)
    if root is None or not os.path.isdir(root):
        return
    inside = {above for file in used for above in file.parents}
    with_tables = any(file.name.lower().endswith(".arrow") for file in used)
    for file in _all(root):
        if file in used or file in inside or (with_tables and file.name in SAVED):
            continue
        kind, hidden = odd(file), any(part.startswith(".") for part in file.relative_to(root).parts)
        if kind is None and (hidden or file.name.upper().startswith(("README", "LICENSE")) or file.name.lower().endswith(NO_LOG)):
            continue
        named = f"a name that this source reads ({', '.join(SUFFIXES)})"
        yield Aside(
            file=printable(file), row=0, field="(file)", expected=named if kind is None else "a file",
            found=printable(file.name) if kind is None else kind, reason="file not read",
            remedy="convert, unpack or rename it, or leave it out" if kind is None else "none, if it is no log",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a file held when it was looked at: its first `size` bytes, their sha256, and the time stamp that it had."""

    file: Path
    size: int
    modified: int
    sha256: str

    def check(self) -> None:
        """Refuses a file whose bytes are others now. One that has grown at its end is read up to `size`."""
        if self._changed():
            raise UserError(f"{self.file} was changed while it was read. Give the same command again, or read a copy of it.")

    def _changed(self) -> bool:
        try:
            now = os.stat(self.file)
            return (now.st_size, now.st_mtime_ns) != (self.size, self.modified) and sha256(self.file, self.size) != self.sha256
        except OSError:
            return True


def content(file: Path) -> Content:
    try:
        status = os.stat(file)
        hashed = _remembered(file, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}. Mend that, or leave the file out.") from error
    return Content(file=file, size=status.st_size, modified=status.st_mtime_ns, sha256=hashed)


@cache
def _remembered(file: Path, size: int, modified: int) -> str:
    return sha256(file, size)


def sha256(file: Path, size: int) -> str:
    """Of the first `size` bytes of a file."""
    found: Any = hashlib.sha256()
    with open(file, "rb") as opened:
        while size > 0 and (piece := opened.read(min(PIECE, size))):
            found.update(piece)
            size -= len(piece)
    return found.hexdigest()
