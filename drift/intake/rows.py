"""Rows of a user's files, one after another, however large: json arrays and lines, plain or as .gz; parquet and Arrow tables.

A file's rows are counted from 1; those of jsonl are its lines, empty ones too. A row that can't be read comes as a BadRow in its
turn, so a reader that hands every row on or sets it aside loses none. A file that is damaged is read up to there; its last row says
so. What is wrong with a whole log (its form, a field that should be read and is not) is a UserError.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.intake.aside import Aside, BadRow, damaged, malformed
from drift.intake.contents import ARROW, BEGINNING, PARQUET, STREAM, refuse_others, text
from drift.intake.fields import Fields, check_fields, decoded, other_source, without
from drift.intake.files import name_of
from drift.intake.json_rows import json_rows
from drift.intake.tables import table_rows

MOST_HELD = 10_000  # rows at the beginning of a file that can't be read, until one can

__all__ = ["Aside", "BadRow", "each", "malformed", "position", "read", "up_to"]


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
        except RecursionError:
            yield malformed(str(file), number, BadRow("(row)", "a JSON object", "a row nested too deeply"))


def _other(file: Path, option: str, other: str) -> str:
    """What to say of a file that looks like one of another source."""
    said = f"{file}: its rows look like those of data={other}, not of data={option}. Give data={other} (for mine: --source {other})"
    logs = other in ("messages", "sharegpt", "wildchat") and option == "records"
    return said + (f", or mine them first: drift mine {file} --source {other} --out records.jsonl" if logs else "") + "."


def read(file: Path) -> Iterator[tuple[int, Any]]:
    """(number, row) of every row; the row is a BadRow where it can't be read. A file in which none can be read is one BadRow, and
    so is what ends the reading early."""
    held: list[tuple[int, BadRow]] | None = []
    for number, row in _up_to_the_damage(file):
        if held is not None and isinstance(row, BadRow) and row.field == "(row)" and len(held) < MOST_HELD:
            held.append((number, row))
            continue
        yield from held or ()
        held = None
        yield number, row
    if held and len(held) > 1:
        reason = Counter(row.reason for _, row in held).most_common(1)[0][0]
        at, row = next(item for item in held if item[1].reason == reason)
        found = f"none in {len(held)} rows that can be read; in row {at}: {row.found}"
        yield 0, BadRow("(file)", row.expected, found, row.reason, row.remedy)
    else:
        yield from held or ()


def _up_to_the_damage(file: Path) -> Iterator[tuple[int, Any]]:
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
        yield (number + 1 if number else 0), damaged(f"an error of the file system: {error.strerror or error}", "a file to read")
    finally:
        _opened.pop(file, None)


_opened: dict[Path, Any] = {}
_sizes: dict[Path, int] = {}


@contextmanager
def up_to(file: Path, size: int) -> Iterator[None]:
    """Within it, only the first `size` bytes of a file are read, however it grows."""
    _sizes[file] = size
    try:
        yield
    finally:
        del _sizes[file]


def position(file: Path) -> int:
    """Bytes of a file that `read` has taken in so far."""
    return _opened[file].tell() if file in _opened and not _opened[file].closed else 0


def _rows(file: Path, opened: Any, size: int) -> Iterator[tuple[int, Any]]:
    begins, named_table = opened.read(BEGINNING), file.name.lower().endswith((".parquet", ".arrow"))
    opened.seek(0)
    if named_table:
        refuse_others(begins, file.name)
    if begins.startswith((PARQUET, ARROW, STREAM)) or (named_table and not begins.lstrip().startswith((b"{", b"["))):
        yield from enumerate(table_rows(opened, begins, size, str(file)), 1)
    else:
        yield from json_rows(text(opened, size, file.name), file.name)
