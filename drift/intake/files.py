"""The files that `data.path` refers to, their names in records, and snapshots of their contents. No hub is ever contacted.

Only regular files and links to them are opened: reading a pipe or a device might never end.
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
NOT_LOG_SUFFIXES = (".md", ".html", ".txt", ".py", ".yaml", ".yml")  # files that often lie beside logs
TABLES, PACKED = (".csv", ".tsv", ".xlsx", ".xls", ".ods"), (".zip", ".zst", ".bz2", ".xz", ".tar", ".tgz", ".7z", ".tar.gz")
MINED = ".quarantine.jsonl"  # written by `drift mine` beside records, which may lie beside the logs
SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")  # written by datasets.save_to_disk beside its .arrow files
PIECE = 1 << 20  # bytes hashed at a time
KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"))


def find_files(path: str, pattern: str, *, config: str | None = None, split: str | None = None) -> list[Path]:
    """`path` itself if it is a file; for a directory, or a hub data set in the local cache, the files whose names match `pattern`.
    `config` and `split` select from a hub data set (see drift/intake/hub.py); for a directory, `split` is a part of the file
    names."""
    if not path.strip():
        raise UserError("data.path is empty. Expected a file, a directory, or a hub data set of the form owner/name.")
    local = _local(path)
    if config is not None and os.path.lexists(local):
        raise UserError(f"data.config={config} selects from a hub data set, but {path} is a file or directory. Leave it out.")
    if os.path.isfile(local):
        if split is not None:
            raise UserError(f"data.split={split} selects from a hub data set or a directory, but {path} is a file. Leave it out.")
        if not has_log_suffix(local):
            raise UserError(f"data.path={path}: expected a file that ends with {', '.join(SUFFIXES)}.{_advice(local)}")
        return [local]
    if not os.path.isdir(local):
        if os.path.lexists(local):
            raise UserError(f"data.path={path} is {why_not_a_file(local)}. Expected a file or a directory.")
        if path.lower().endswith((*SUFFIXES, *TABLES, *PACKED)):  # as no data set is called
            raise UserError(f"data.path={path}: no such file or directory.")
        from drift.intake.hub import find_cached

        cached = find_cached(path, config, split)
        if isinstance(cached, list):
            return cached
        local = cached
    pattern = pattern if split is None else f"*{split}*"
    found = [file for file in _walk(local) if has_log_suffix(file) and file.match(pattern) and why_not_a_file(file) is None]
    found = [file for file in found if not file.name.endswith(MINED)]
    tables = {file.parent for file in found if file.name.lower().endswith(".arrow")}
    found = [file for file in found if file.name not in SAVED or not any(file.parent in (at, *at.parents) for at in tables)]
    if not found:
        raise UserError(f"data.path={path}: no file named {pattern} in {local}. Expected one that ends with {', '.join(SUFFIXES)}.")
    return found


def _advice(file: Path) -> str:
    """What to do with a file that is no log yet."""
    if file.name.lower().endswith(PACKED):
        return " Unpack it first."
    return " docs/log-format.md shows how to convert a table." if file.name.lower().endswith(TABLES) else ""


def _local(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"data.path={path}: there is no such user. Give the path of the file.") from error


def _walk(folder: Path) -> list[Path]:
    """All files in a folder and below, and subfolders that are named like a log; links to folders are not followed."""
    found = []
    for at, folders, names in os.walk(folder):
        named = [name for name in folders if os.path.islink(os.path.join(at, name)) or has_log_suffix(Path(name))]
        found += [Path(at, name) for name in [*names, *named]]
    return sorted(found)


def why_not_a_file(file: Path) -> str | None:
    """Why a path is not a readable regular file (or a link to one); None if it is."""
    try:
        mode = os.stat(file).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads to itself"
        return "a link to nothing" if error.errno == errno.ENOENT and os.path.islink(file) else str(error.strerror)
    if not stat.S_ISREG(mode):
        kind = next((kind for test, kind in KINDS if test(mode)), "a device")
        return f"a link to {kind}" if os.path.islink(file) else kind
    return None if os.access(file, os.R_OK) else "a file that you have no permission to read"


def has_log_suffix(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)


def display_name(file: Path, path: str | None) -> str:
    """A file's name in records: its path below the directory `path` or in the hub data set, so that two files with the same name
    stay apart."""
    root = None if path is None else _local(path)
    if root is not None and root.is_dir():
        return printable(file.relative_to(root).as_posix())
    if "snapshots" in file.parts:
        return printable("/".join(file.parts[file.parts.index("snapshots") + 2 :]))
    return printable(file.name)


def unread_files(path: str | None, used: Collection[Path]) -> Iterator[Aside]:
    """The files in a user's directory that are not read, because of their name or because they are not regular files."""
    root = None if path is None else _local(path)
    if root is None or not os.path.isdir(root):
        return
    inside = {above for file in used for above in file.parents}
    with_tables = any(file.name.lower().endswith(".arrow") for file in used)
    for file in _walk(root):
        if file in used or file in inside or (with_tables and file.name in SAVED):
            continue
        kind, hidden = why_not_a_file(file), any(part.startswith(".") for part in file.relative_to(root).parts)
        if kind is None and (
            hidden or file.name.upper().startswith(("README", "LICENSE")) or file.name.lower().endswith((*NOT_LOG_SUFFIXES, MINED))
        ):
            continue
        expected = f"a name that this source reads ({', '.join(SUFFIXES)})"
        yield Aside(
            file=printable(file), row=0, field="(file)", expected=expected if kind is None else "a file",
            found=printable(file.name) if kind is None else kind, reason="file not read",
            remedy="convert, unpack or rename it, or leave it out" if kind is None else "none, if it is not a log",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A file at one moment: its first `size` bytes, their sha256, and the time stamp that the file had."""

    file: Path
    size: int
    modified: int
    sha256: str

    def check(self) -> None:
        """Refuses a file whose first `size` bytes have changed. A file that has only grown is accepted."""
        if self._changed():
            raise UserError(
                f"{self.file} was changed while it was being read. Run the same command again, or read a copy of the file."
            )

    def _changed(self) -> bool:
        try:
            now = os.stat(self.file)
            return (now.st_size, now.st_mtime_ns) != (self.size, self.modified) and sha256(self.file, self.size) != self.sha256
        except OSError:
            return True


def snapshot(file: Path) -> Snapshot:
    try:
        status = os.stat(file)
        sha256_now = _cached_sha256(file, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}. Fix that, or leave the file out.") from error
    return Snapshot(file=file, size=status.st_size, modified=status.st_mtime_ns, sha256=sha256_now)


@cache
def _cached_sha256(file: Path, size: int, modified: int) -> str:
    return sha256(file, size)


def sha256(file: Path, size: int) -> str:
    """The sha256 of a file's first `size` bytes."""
    result: Any = hashlib.sha256()
    with open(file, "rb") as opened:
        while size > 0 and (piece := opened.read(min(PIECE, size))):
            result.update(piece)
            size -= len(piece)
    return result.hexdigest()
