"""Rows of json: one object a line, or an array of them. Which of the two a file holds is told by its content, not by its name.

A row is (number, value); the value is a BadRow where the row can't be read. Those of a file of lines are numbered as an editor
numbers them, empty ones too; those of an array are counted from 1.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from drift.intake.aside import BadRow, damaged
from drift.intake.contents import AS_UTF8, peeked
from drift.intake.fields import MAIN

MOST = 16 << 20  # bytes of one row
CHUNK = 1 << 20  # characters of an array looked at together
ESCAPED = re.compile("[\udc80-\udcff]")  # what bytes that are not UTF-8 are read as
BLANK, BETWEEN = " \t\r\n\0", ", \t\r\n\0"
BLANK_BYTES = BLANK.encode()  # a log that was cut while it was written to begins with zeros
ROW_FIELDS = {name for names in MAIN.values() for name in names}
OBJECT, ARRAY = "one JSON object a line, or a JSON array of them", "a JSON array that is whole"
WIDTH = f"at most {MOST >> 20} MiB"


def json_rows(pieces: Iterator[bytes], name: str) -> Iterator[tuple[int, Any]]:
    """The rows of a file's text, which `name` calls an array (.json) or lines (.jsonl, .ndjson)."""
    held, pieces = peeked(pieces, CHUNK)
    begins = held.decode("utf-8", "surrogateescape").lstrip(BLANK)
    as_array = name.lower().removesuffix(".gz").endswith(".json")
    if as_array and not begins.startswith(("[", "{")):
        yield 0, BadRow("(file)", "a JSON array", ascii(begins[:20]) if begins else "nothing")
    elif _has_lines(begins, as_array):
        yield from _lines(pieces)
    else:
        yield from enumerate(_values(_Text(pieces)), 1)


def _has_lines(begins: str, as_array: bool) -> bool:
    """Whether a file that begins so holds an object a line, rather than an array or objects on several lines each."""
    first, newline, rest = begins.replace("\r", "\n").partition("\n")
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        row = None
    if begins.startswith("["):
        rows = isinstance(row, list) and bool(row) and isinstance(row[0], dict) and bool(row[0])
        begun = row is None and re.match(r"\[\s*(\{|$)", first) is not None
        return not (as_array or rows or begun)
    if row is not None:
        return not as_array or rest.lstrip(BLANK) != ""
    return not (as_array or first.rstrip() == "{") or re.match(r"\{.*\}\s*$", first) is not None


def not_utf8() -> BadRow:
    return BadRow("(row)", "text in UTF-8", "bytes that are not UTF-8", "not UTF-8", AS_UTF8)


def _lines(pieces: Iterator[bytes]) -> Iterator[tuple[int, Any]]:
    for number, line in _split(pieces):
        if line is None:
            yield number, BadRow("(row)", WIDTH, "more", "row too large")
        elif line := line.strip(BLANK_BYTES):
            try:
                yield number, json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                yield number, not_utf8()
            except (ValueError, RecursionError) as error:
                yield number, BadRow("(row)", "a JSON object", _why(error))


def _split(pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """(number, line), whichever of the three characters end them; None for one of more than `MOST` bytes."""
    parts: list[bytes] = []
    number, length, dropped = 0, 0, False
    for piece in pieces:
        parts.append(piece)
        length += len(piece)
        if b"\n" in piece or b"\r" in piece:
            lines = b"".join(parts).splitlines(keepends=True)
            parts = [] if lines[-1].endswith(b"\n") else [lines.pop()]  # after "\r" may come "\n"
            length = sum(map(len, parts))
            if not dropped and not piece.strip(BLANK_BYTES) and not any(line.strip(BLANK_BYTES) for line in lines[:1]):
                number += len(lines)  # a million empty ones cost no more than this
                continue
            for line in lines:
                number += 1
                yield number, None if dropped or len(line) > MOST else line
                dropped = False
        if length > MOST:
            parts, length, dropped = [parts[-1][-1:]], 1, True  # the last byte says whether the line ends here
    if parts:
        yield number + 1, None if dropped else b"".join(parts)


class _Text:
    """Text that is read on as it is needed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.decoder = pieces, codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.failed: BadRow | None = None

    def more(self, count: int) -> str:
        """At least `count` characters, or all that remain. What ends the pieces early is raised once all before is handed out."""
        found, length = [], 0
        try:
            while length < count and self.failed is None and (piece := next(self.pieces, None)) is not None:
                found.append(self.decoder.decode(piece))
                length += len(found[-1])
        except BadRow as error:
            self.failed = error
        if self.failed is not None and not found:
            raise self.failed
        return "".join(found)


def _values(text: _Text) -> Iterator[Any]:
    """The values of arrays, or of objects that follow one another. BadRow is raised where it can't be read on."""
    decode = json.JSONDecoder().raw_decode
    held = text.more(CHUNK).lstrip(BLANK)
    in_array, at, count = False, 0, 0
    while True:
        while at < len(held) and held[at] in BETWEEN:
            at += 1
        if at == len(held) and (more := text.more(CHUNK)):
            held, at = more, 0
            continue
        if at == len(held) and not in_array:
            return
        if held.startswith("]" if in_array else "[", at):
            in_array, at = not in_array, at + 1
            continue
        try:
            row, end = decode(held, at)
            if end == len(held) and isinstance(row, int | float):
                raise ValueError("a number may go on in the next piece")
        except (ValueError, RecursionError) as error:
            if len(held) - at > MOST:
                raise BadRow("(file)", f"rows of {WIDTH}", "a larger one; the rest is not read", "row too large") from error
            length = len(held) - at  # grows fourfold, so that a long row isn't parsed again and again
            more = text.more(max(CHUNK, min(3 * length, MOST + 1 - length)))
            if more:
                held, at = held[at:] + more, 0
                continue
            raise damaged(_ending(error, held, at), ARRAY if in_array else OBJECT) from error
        count += 1
        if not in_array and count == 1 and (key := _holds_rows(row)) is not None:
            raise BadRow(
                "(file)", OBJECT, f"an object that holds a list under {key!r}", "rows inside an object",
                f"write that list alone: jq '.[\"{key}\"]' FILE > NEW.json",
            )  # fmt: skip
        yield not_utf8() if ESCAPED.search(held, at, end) else row
        at = end


def _holds_rows(row: Any) -> str | None:
    """The field of an object that holds rows rather than the turns of one: {"data": [{"messages": […]}, …]}."""
    for key, value in row.items() if isinstance(row, dict) else ():
        if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].keys() & ROW_FIELDS:
            return str(key)
    return None


def _why(error: Exception) -> str:
    """What is wrong with a text that is no json."""
    if isinstance(error, RecursionError):
        return "a row nested too deeply"
    return f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)


def _ending(error: Exception, text: str, at: int) -> str:
    """Why values can't be read on from `at`, where no more text follows."""
    if at >= len(text):
        return "the file ends here"
    if isinstance(error, RecursionError):
        return "a row nested too deeply; the rest is not read"
    if not isinstance(error, json.JSONDecodeError) or error.pos > len(text) - 8 or "Unterminated" in error.msg:
        return "the file ends inside this row"
    return f"{error.msg} in this row; the rest is not read"
