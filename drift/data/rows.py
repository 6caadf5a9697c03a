"""Rows of a user's files, one after another, however large: json arrays, jsonl, parquet; .gz of the first two.

A file's rows are counted from 1; those of jsonl are its lines, empty ones too. A row that can't be read comes as a BadRow in its
turn, so a reader that hands every row on or sets it aside loses none. A json array that is broken or cut off is read up to there;
its last row says so. What is wrong with a whole file (its form, a field that should be read and is not) is a UserError.
"""

import codecs
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.data.fields import Fields, check_fields, decoded, other_source, without
from drift.data.files import name_of
from drift.errors import UserError, need_package

CHUNK = 1 << 20  # characters of a json array read at once
ESCAPED = re.compile("[\udc80-\udcff]")  # what bytes that are not UTF-8 are read as
MALFORMED, CORRECT = "malformed row", "correct the row, or leave it out"


class BadRow(ValueError):
    """A row that can't be used: (field, what was expected, what was found), and why in a word or two."""

    def __init__(self, field: str, expected: str, found: str, reason: str = MALFORMED, remedy: str = CORRECT) -> None:
        super().__init__(field, expected, found)
        self.field, self.expected, self.found, self.reason, self.remedy = field, expected, found, reason, remedy


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


def each(
    file: Path, parse: Callable[[Any, str, int], Any], *, option: str, path: str | None, fields: Fields, ignore: Sequence[str]
) -> Iterator[Any]:
    """`parse(row, name of the file, number)` of every row, or the Aside of one that it refuses with a BadRow. `option`: of the
    config group data; `path`: data.path, which names are relative to; `fields`: what is read ({}: not checked); `ignore`: fields
    to leave unread."""
    name, first = name_of(file, path), True
    for number, row in read(file):
        try:
            if isinstance(row, BadRow):
                raise row
            if not isinstance(row, dict):
                raise BadRow("(row)", "a JSON object", type(row).__name__)
            if first and (other := other_source(row, option)) is not None:
                raise UserError(_other(file, option, other))
            first = False
            if ignore:
                row = without(row, ignore)
            for key in fields:
                if isinstance(row.get(key), str):
                    row = row | {key: decoded(row[key], "role", "from")}
            check_fields(row, fields, f"{file}, row {number}")
            yield parse(row, name, number)
        except BadRow as error:
            yield malformed(str(file), number, error)


def _other(file: Path, option: str, other: str) -> str:
    """What to say of a file that looks like one of another source."""
    said = f"{file}: its rows look like those of data={other}, not of data={option}. Give data={other} (for mine: --source {other})"
    logs = other in ("messages", "sharegpt", "wildchat") and option == "records"
    return said + (f", or mine them first: python -m drift mine {file} --source {other} --out records.jsonl" if logs else "") + "."


def malformed(file: str, row: int, error: BadRow) -> Aside:
    return Aside(
        file=file, row=row, field=error.field, expected=error.expected, found=error.found,
        reason=error.reason, remedy=error.remedy,
    )  # fmt: skip


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
    name = file.name.lower()
    if name.endswith(".parquet"):
        yield from enumerate(_parquet(file, opened), 1)
        return
    plain = gzip.GzipFile(fileobj=opened) if name.endswith(".gz") else opened
    if name.removesuffix(".gz").endswith(".json"):
        yield from enumerate(_array(io.TextIOWrapper(plain, "utf-8", "surrogateescape"), file), 1)
    else:
        yield from _lines(plain, file)


def _parquet(file: Path, opened: Any) -> Iterator[Any]:
    need_package("pyarrow", f"{file}", extra="logs")
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(opened).iter_batches(batch_size=256):
        yield from batch.to_pylist()


def _lines(opened: Any, file: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(opened, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            yield number, BadRow("(row)", "a JSON object in UTF-8", str(error))
            continue
        if number == 1 and isinstance(row, list) and row and isinstance(row[0], dict) and row[0]:
            raise UserError(f"{file}: expected one JSON object a line, and found a JSON array. Rename it to end with .json.")
        yield number, row


def _array(opened: Any, file: Path) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    text, at = opened.read(CHUNK).lstrip("\ufeff \r\n\t"), 1
    if text.startswith("{"):
        lines = re.match(r"\{.*\}\s*\n\s*\{", text) is not None
        raise UserError(
            f"{file}: expected a JSON array, [...], and found "
            + ("one JSON object a line. Rename it to end with .jsonl." if lines else "an object. Write its list of rows alone.")
        )
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
            more = opened.read(max(CHUNK, len(text) - at))  # doubles, so that a long row isn't parsed again and again
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
