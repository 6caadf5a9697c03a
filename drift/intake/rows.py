"""Rows of a user's files, one after another, however large: JSON arrays and lines, plain or .gz; parquet and Arrow tables.

The rows of a file are counted from 1; in jsonl they are its lines, empty ones included. A row that can't be read is yielded as a
BadRow in its place, so no row is lost silently. A damaged file is read up to the damage; the last row reports it. A problem of the
whole log (its format, feedback in an unknown field) is a UserError.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.intake.aside import MALFORMED, Aside, BadRow, damaged, malformed
from drift.intake.contents import ARROW, BEGINNING, PARQUET, STREAM, refuse_other_formats, utf8_pieces
from drift.intake.fields import Fields, check_fields, decode_list, drop_fields, other_source
from drift.intake.files import display_name
from drift.intake.json_rows import json_rows
from drift.intake.tables import table_rows

CONVERT = "write one JSON object a line; docs/log-format.md shows how to convert a table"
MOST_HELD = 10_000  # unreadable rows at the beginning of a file that are kept until one can be read

__all__ = ["Aside", "BadRow", "bytes_read", "malformed", "parse_rows", "read_at_most", "read_rows"]


def parse_rows(
    file: Path, parse: Callable[[Any, str, int], Any], *, option: str, path: str | None, fields: Fields, ignore: Sequence[str]
) -> Iterator[Any]:
    """`parse(row, name of the file, number)` for every row, or an Aside if that raises BadRow. `option`: of the config group data;
    `path`: data.path, which file names are relative to; `fields`: the known fields ({}: not checked); `ignore`: fields to
    ignore."""
    name, first = display_name(file, path), True
    for number, row in read_rows(file):
        try:
            if isinstance(row, BadRow):
                raise row
            if not isinstance(row, dict):
                raise BadRow("(row)", "a JSON object", type(row).__name__)
            if first and (other := other_source(row, option)) is not None:
                raise UserError(_wrong_source_message(file, option, other))
            first = False
            for key in fields:
                if isinstance(row.get(key), str):
                    row = row | {key: decode_list(row[key], "role", "from")}
            if ignore:
                row = drop_fields(row, ignore)
            check_fields(row, fields, f"{file}, row {number}", option)
            yield parse(row, name, number)
        except BadRow as error:
            yield malformed(str(file), number, error)
        except RecursionError:
            yield malformed(str(file), number, BadRow("(row)", "a JSON object", "a row nested too deeply"))


def _wrong_source_message(file: Path, option: str, other: str) -> str:
    """The error message for a file that seems to come from another source."""
    if other == "records":
        return (
            f"{file} holds records that `drift mine` wrote, and no rows of data={option}. Learn from them with data=records "
            f"data.path={file}, or move the file out of the folder with the logs."
        )
    text = f"{file}: its rows look like data={other}, not like data={option}. Use data={other} (in drift mine: --source {other})"
    logs = other in ("messages", "sharegpt", "wildchat") and option == "records"
    return text + (f", or mine them first: drift mine {file} --source {other} --out records.jsonl" if logs else "") + "."


def read_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """(number, row) for every row; the row is a BadRow if it can't be read. A file without any readable row yields a single BadRow.
    Whatever ends the reading early is a BadRow too."""
    unreadable: list[tuple[int, BadRow]] | None = []
    number = None
    for number, row in _rows_before_damage(file):
        if unreadable is not None and isinstance(row, BadRow) and row.field == "(row)" and len(unreadable) < MOST_HELD:
            unreadable.append((number, row))
            continue
        yield from unreadable or ()
        unreadable = None
        yield number, row
    if number is None:
        yield 0, BadRow("(file)", "rows", "none", "empty file", "none, if nothing was logged; otherwise export it again")
    elif unreadable and len(unreadable) > 1:
        reason = Counter(row.reason for _, row in unreadable).most_common(1)[0][0]
        at, row = next(item for item in unreadable if item[1].reason == reason)
        found = f"none of {len(unreadable)} rows can be read; row {at}: {row.found}"
        yield 0, BadRow("(file)", row.expected, found, row.reason, CONVERT if reason == MALFORMED else row.remedy)
    else:
        yield from unreadable or ()


def _rows_before_damage(file: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        with open(file, "rb") as opened:
            _opened[file] = opened
            size = _sizes.get(file, os.fstat(opened.fileno()).st_size)
            for number, row in _rows(file, opened, size):  # noqa: B007
                yield number, row
    except BadRow as error:
        yield (number + 1 if number else 0), error
    except OSError as error:
        yield (number + 1 if number else 0), damaged(f"a file system error: {error.strerror or error}", "a readable file")
    finally:
        _opened.pop(file, None)


_opened: dict[Path, Any] = {}
_sizes: dict[Path, int] = {}


@contextmanager
def read_at_most(file: Path, size: int) -> Iterator[None]:
    """Inside this context only the first `size` bytes of a file are read, even if it grows."""
    _sizes[file] = size
    try:
        yield
    finally:
        del _sizes[file]


def bytes_read(file: Path) -> int:
    """How many bytes of a file `read_rows` has read so far."""
    return _opened[file].tell() if file in _opened and not _opened[file].closed else 0


def _rows(file: Path, opened: Any, size: int) -> Iterator[tuple[int, Any]]:
    start, named_table = opened.read(BEGINNING), file.name.lower().endswith((".parquet", ".arrow"))
    opened.seek(0)
    if named_table:
        refuse_other_formats(start, file.name)
    if start.startswith((PARQUET, ARROW, STREAM)) or (named_table and not start.lstrip().startswith((b"{", b"["))):
        yield from enumerate(table_rows(opened, start, size, str(file)), 1)
    else:
        yield from json_rows(utf8_pieces(opened, size, file.name), file.name)
