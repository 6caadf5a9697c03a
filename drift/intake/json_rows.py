"""JSON rows: one object per line, or an array of objects. The content of a file decides which of the two it is, not its name.

A row is (number, value); the value is a BadRow if the row can't be read. Lines are numbered as in an editor, empty ones included;
the rows of an array are counted from 1.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from drift.intake.aside import BadRow, damaged
from drift.intake.contents import AS_UTF8, peek
from drift.intake.fields import SIGNATURES

MAX_ROW_BYTES = 16 << 20  # bytes of one row
CHUNK = 1 << 20  # characters of an array that are parsed at a time
ESCAPED = re.compile("[\udc80-\udcff]")  # how bytes that are not UTF-8 are decoded
BLANK, BETWEEN = " \t\r\n\0", ", \t\r\n\0"
BLANK_BYTES = BLANK.encode()  # a log whose writing was interrupted may begin with zeros
ROW_FIELDS = {name for names in SIGNATURES.values() for name in names}
OBJECT, ARRAY = "one JSON object per line, or a JSON array of objects", "a complete JSON array"
MAX_ROW_TEXT = f"at most {MAX_ROW_BYTES >> 20} MiB"


def json_rows(pieces: Iterator[bytes], name: str) -> Iterator[tuple[int, Any]]:
    """The rows of a file's text. `name`: its suffix suggests an array (.json) or lines (.jsonl, .ndjson)."""
    head, pieces = peek(pieces, CHUNK)
    start = head.decode("utf-8", "surrogateescape").lstrip(BLANK)
    as_array = name.lower().removesuffix(".gz").endswith(".json")
    if as_array and start and not start.startswith(("[", "{")):
        yield 0, BadRow("(file)", "a JSON array", ascii(start[:20]))
    elif _has_lines(start, as_array):
        yield from _lines(pieces)
    else:
        yield from enumerate(_values(_TextReader(pieces)), 1)


def _has_lines(start: str, as_array: bool) -> bool:
    """Whether a file with this start holds one object per line, rather than an array or objects that span several lines."""
    first, newline, rest = start.replace("\r", "\n").partition("\n")
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        row = None
    if start.startswith("["):
        rows = isinstance(row, list) and bool(row) and isinstance(row[0], dict) and bool(row[0])
        begins_array = row is None and re.match(r"\[\s*(\{|$)", first) is not None
        return not (as_array or rows or begins_array)
    if row is not None:
        return not as_array or rest.lstrip(BLANK) != ""
    return not (as_array or first.rstrip() == "{") or re.match(r"\{.*\}\s*$", first) is not None


def not_utf8() -> BadRow:
    return BadRow("(row)", "text in UTF-8", "bytes that are not UTF-8", "not UTF-8", AS_UTF8)


def _lines(pieces: Iterator[bytes]) -> Iterator[tuple[int, Any]]:
    for number, line in _split_lines(pieces):
        if line is None:
            yield number, BadRow("(row)", MAX_ROW_TEXT, "more", "row too large")
        elif line := line.strip(BLANK_BYTES):
            try:
                yield number, json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                yield number, not_utf8()
            except (ValueError, RecursionError) as error:
                yield number, BadRow("(row)", "a JSON object", _json_error(error))


def _split_lines(pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """(number, line), with any of the usual line ends; None for a line of more than `MAX_ROW_BYTES` bytes."""
    parts: list[bytes] = []
    number, length, dropped = 0, 0, False
    for piece in pieces:
        parts.append(piece)
        length += len(piece)
        if b"\n" in piece or b"\r" in piece:
            lines = b"".join(parts).splitlines(keepends=True)
            parts = [] if lines[-1].endswith(b"\n") else [lines.pop()]  # "\r" may be followed by "\n"
            length = sum(map(len, parts))
            if not dropped and not piece.strip(BLANK_BYTES) and not any(line.strip(BLANK_BYTES) for line in lines[:1]):
                number += len(lines)  # so that a million empty lines cost next to nothing
                continue
            for line in lines:
                number += 1
                yield number, None if dropped or len(line) > MAX_ROW_BYTES else line
                dropped = False
        if length > MAX_ROW_BYTES:
            parts, length, dropped = [parts[-1][-1:]], 1, True  # the last byte says whether the line ends here
    if parts:
        yield number + 1, None if dropped else b"".join(parts)


class _TextReader:
    """Decodes text piece by piece, as it is needed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.decoder = pieces, codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.failed: BadRow | None = None

    def more(self, count: int) -> str:
        """At least `count` characters, or all that remain. An error in the pieces is raised after everything before it has been
        returned."""
        texts, length = [], 0
        try:
            while length < count and self.failed is None and (piece := next(self.pieces, None)) is not None:
                texts.append(self.decoder.decode(piece))
                length += len(texts[-1])
        except BadRow as error:
            self.failed = error
        if self.failed is not None and not texts:
            raise self.failed
        return "".join(texts)


def _values(text: _TextReader) -> Iterator[Any]:
    """The values of arrays, or of objects that follow one another. Raises BadRow where the text can't be read any further."""
    decode = json.JSONDecoder().raw_decode
    buffer = text.more(CHUNK).lstrip(BLANK)
    in_array, at, count = False, 0, 0
    while True:
        while at < len(buffer) and buffer[at] in BETWEEN:
            at += 1
        if at == len(buffer) and (more := text.more(CHUNK)):
            buffer, at = more, 0
            continue
        if at == len(buffer) and not in_array:
            return
        if buffer.startswith("]" if in_array else "[", at):
            in_array, at = not in_array, at + 1
            continue
        try:
            row, end = decode(buffer, at)
            if end == len(buffer) and isinstance(row, int | float):
                raise ValueError("the number may continue in the next piece")
        except (ValueError, RecursionError) as error:
            if len(buffer) - at > MAX_ROW_BYTES:
                raise BadRow("(file)", f"rows of {MAX_ROW_TEXT}", "a larger one; the rest is not read", "row too large") from error
            length = len(buffer) - at  # grows fourfold, so that a long row is not parsed over and over
            more = text.more(max(CHUNK, min(3 * length, MAX_ROW_BYTES + 1 - length)))
            if more:
                buffer, at = buffer[at:] + more, 0
                continue
            raise damaged(_why_unreadable(error, buffer, at), ARRAY if in_array else OBJECT) from error
        count += 1
        if not in_array and count == 1 and (key := _field_with_rows(row)) is not None:
            raise BadRow(
                "(file)", OBJECT, f"an object with a list under {key!r}", "rows inside an object",
                f"write that list alone: jq '.[\"{key}\"]' FILE > NEW.json",
            )  # fmt: skip
        yield not_utf8() if ESCAPED.search(buffer, at, end) else row
        at = end


def _field_with_rows(row: Any) -> str | None:
    """The field of an object that contains rows, rather than the turns of one row: {"data": [{"messages": […]}, …]}."""
    for key, value in row.items() if isinstance(row, dict) else ():
        if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].keys() & ROW_FIELDS:
            return str(key)
    return None


def _json_error(error: Exception) -> str:
    """What is wrong with a text that is not JSON."""
    if isinstance(error, RecursionError):
        return "a row nested too deeply"
    return f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)


def _why_unreadable(error: Exception, text: str, at: int) -> str:
    """Why the text can't be parsed from `at` to its end."""
    if at >= len(text):
        return "the file ends here"
    if isinstance(error, RecursionError):
        return "a row nested too deeply; the rest is not read"
    if "digits" in str(error):
        return "a number with too many digits in this row; the rest is not read"
    if not isinstance(error, json.JSONDecodeError) or error.pos > len(text) - 8 or "Unterminated" in error.msg:
        return "the file ends inside this row"
    return f"{error.msg} in this row; the rest is not read"
