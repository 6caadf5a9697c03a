"""Rows of a user's files, one after another, however large: json arrays, jsonl, parquet; .gz of the first two.

A file's rows are counted from 1; those of jsonl are its lines, empty ones too. A row that can't be read comes as a BadRow in its
turn, so a reader that hands every row on or sets it aside loses none. A json array that is broken or cut off is read up to there;
its last row says so.
"""

import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.errors import UserError, need_package

CHUNK = 1 << 20  # characters of a json array read at once
ESCAPED = re.compile("[\udc80-\udcff]")  # what bytes that are not UTF-8 are read as
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")


class BadRow(ValueError):
    """A row that can't be used: (field, what was expected, what was found)."""

    def __init__(self, field: str, expected: str, found: str) -> None:
        super().__init__(field, expected, found)
        self.field, self.expected, self.found = field, expected, found


@dataclass(frozen=True, kw_only=True)
class Aside:
    """A row that is not used, and why. `reason` in a word or two (reports count by it); `remedy`: what the user can do."""

    file: str
    row: int
    field: str
    expected: str
    found: str
    reason: str
    remedy: str


def each(file: Path, parse: Callable[[Any, str, int], Any]) -> Iterator[Any]:
    """`parse(row, file name, number)` of every row, or the Aside of one that it refuses with a BadRow."""
    for number, row in read(file):
        try:
            if isinstance(row, BadRow):
                raise row
            if not isinstance(row, dict):
                raise BadRow("(row)", "a JSON object", type(row).__name__)
            yield parse(row, file.name, number)
        except BadRow as error:
            yield malformed(str(file), number, error)


def malformed(file: str, row: int, error: BadRow) -> Aside:
    return Aside(
        file=file, row=row, field=error.field, expected=error.expected, found=error.found,
        reason="malformed row", remedy="correct the row, or leave it out",
    )  # fmt: skip


def files(path: str, pattern: str) -> list[Path]:
    """The files that `path` means: a file as it is; of a directory, or of a hub data set that is in the local cache, those whose
    names match `pattern`. A hub is never contacted."""
    local = Path(path).expanduser()
    if local.is_file():
        if not local.name.endswith(SUFFIXES):
            raise UserError(f"data.path={path}: expected a file that ends with {', '.join(SUFFIXES)}.")
        return [local]
    if not local.is_dir():
        local = _cached(path)
    found = sorted(file for file in local.rglob(pattern) if file.name.endswith(SUFFIXES))
    if not found:
        raise UserError(f"data.path={path}: no file named {pattern} in {local}. Expected one that ends with {', '.join(SUFFIXES)}.")
    return found


def _cached(path: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise UserError(f"data.path={path}: no such file or directory, nor a hub data set of the form owner/name.")
    try:
        return Path(snapshot_download(path, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"Data set {path} is not in the local Hugging Face cache, and a run never downloads by itself. "
            f"Fetch it first: hf download --repo-type dataset {path}"
        ) from error


def read(file: Path) -> Iterator[tuple[int, Any]]:
    """(number, row) of every row; the row is a BadRow where it can't be read."""
    with open(file, "rb") as opened:
        _opened[file] = opened
        try:
            yield from _rows(file, opened)
        finally:
            del _opened[file]


_opened: dict[Path, Any] = {}


def position(file: Path) -> int:
    """Bytes of a file that `read` has taken in so far."""
    return _opened[file].tell() if file in _opened else 0


def _rows(file: Path, opened: Any) -> Iterator[tuple[int, Any]]:
    if file.name.endswith(".parquet"):
        yield from enumerate(_parquet(file, opened), 1)
        return
    plain = gzip.GzipFile(fileobj=opened) if file.name.endswith(".gz") else opened
    array = file.name.removesuffix(".gz").endswith(".json")
    yield from enumerate(_array(io.TextIOWrapper(plain, "utf-8", "surrogateescape")), 1) if array else _lines(plain)


def _parquet(file: Path, opened: Any) -> Iterator[Any]:
    need_package("pyarrow", f"{file}", extra="logs")
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(opened).iter_batches(batch_size=256):
        yield from batch.to_pylist()


def _lines(file: Any) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            yield number, BadRow("(row)", "a JSON object in UTF-8", str(error))


def _array(file: Any) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    text, at = file.read(CHUNK).lstrip("\ufeff \r\n\t"), 1
    if not text.startswith("["):
        yield BadRow("(file)", "a JSON array", ascii(text[:20]))
        return
    while True:
        while at < len(text) and text[at] in ", \r\n\t":
            at += 1
        if text.startswith("]", at):
            return
        try:
            row, end = decode(text, at)
            if end == len(text) and isinstance(row, int | float):
                raise ValueError("a number may go on in the next chunk")
        except (ValueError, RecursionError) as error:
            more = file.read(max(CHUNK, len(text) - at))  # doubles, so that a long row isn't parsed again and again
            if more:
                text, at = text[at:] + more, 0
                continue
            yield BadRow("(file)", "a JSON array that is whole", _ending(error, text, at))
            return
        yield BadRow("(row)", "a JSON object in UTF-8", "bytes that are not UTF-8") if ESCAPED.search(text, at, end) else row
        at = end


def _ending(error: Exception, text: str, at: int) -> str:
    """Why an array can't be read on from `at`, where no more text follows."""
    if at >= len(text):
        return "the file ends here"
    if not isinstance(error, json.JSONDecodeError) or error.pos > len(text) - 8 or "Unterminated" in error.msg:
        return "the file ends inside this row"
    return f"{error.msg} in this row; the rest is not read"
