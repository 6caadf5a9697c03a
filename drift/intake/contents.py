"""What is in a file of text, piece by piece, whatever its name says: unpacked if it is gzip, UTF-8 if it was UTF-16.

Nothing here holds more than a piece of a file. A file that can't be read on raises a BadRow about "(file)" where that shows: all
that stands before is handed out. Only as many bytes are read as the file had when it was opened, however it grows.
"""

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from drift.intake.aside import BadRow, damaged

PIECE = 1 << 16  # bytes of a file read at once
UNPACKED = 1 << 20  # bytes that a compressed piece gives at once
MOST_TIMES, SPARE = 300, 1 << 30  # a compressed file may unpack to so many times its size and so many bytes more
GZIP, PARQUET, ARROW, STREAM = b"\x1f\x8b", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
POINTER = b"version https://git-lfs.github.com/spec/"
OTHERS = {
    b"PK\x03\x04": "a zip archive", b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x89PNG": "a picture", b"%PDF": "a PDF", b"SQLite format": "an SQLite database",
}  # fmt: skip
BEGINNING = 64  # bytes that tell what a file is
MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
WIDE = re.compile(rb'[\[{]\0[\s"\[{]\0|\0[\[{]\0[\s"\[{]', re.DOTALL)  # how json in UTF-16 begins
AS_UTF8 = "save the file as UTF-8 (as `iconv -f ENCODING -t UTF-8` does)"


def most_unpacked(size: int) -> int:
    """Bytes that a compressed file of `size` bytes may hold."""
    return SPARE + MOST_TIMES * size


def too_large(unpacked: str) -> BadRow:
    return BadRow(
        "(file)", f"at most {MOST_TIMES} times its size and {SPARE >> 30} GiB more when unpacked", unpacked, "file too large",
        "if that is no mistake, unpack it, or split it up; the rows so far are used",
    )  # fmt: skip


def refuse_others(begins: bytes, name: str) -> None:
    """Raises BadRow for a file that is known to hold no rows: another file's pointer, an archive."""
    if begins.startswith(POINTER):
        raise BadRow(
            "(file)", "the file itself", "a Git LFS pointer, which stands for it", "Git LFS pointer",
            f"fetch the file: git lfs pull --include='*{name}'",
        )  # fmt: skip
    for magic, kind in OTHERS.items():
        if begins.startswith(magic):
            raise BadRow("(file)", "rows of json, or a table", kind, "file not read", "unpack or convert it, or leave it out")


def text(opened: Any, size: int, name: str) -> Iterator[bytes]:
    """The first `size` bytes of a file, unpacked, as UTF-8 without a byte-order mark."""
    packed, pieces = peeked(_bytes(opened, size))
    if packed.startswith(GZIP):
        pieces = _unpacked(pieces, most_unpacked(size))
    elif name.lower().endswith(".gz") and not packed:
        raise damaged("no bytes at all", "gzip data")
    begins, pieces = peeked(pieces)
    refuse_others(begins, name)
    mark, encoding = next(((mark, known) for mark, known in MARKS if begins.startswith(mark)), (b"", "utf-8"))
    if not mark and WIDE.match(begins):
        raise BadRow("(file)", "text in UTF-8", "UTF-16 without a byte-order mark", "not UTF-8", AS_UTF8)
    return _without(mark, pieces) if encoding == "utf-8" else _as_utf8(pieces, encoding)


def peeked(pieces: Iterator[bytes], count: int = BEGINNING) -> tuple[bytes, Iterator[bytes]]:
    """(the first `count` bytes, all pieces). What ends the pieces early is raised when they are used, not here."""
    held, failed = b"", None
    try:
        while len(held) < count:
            held += next(pieces)
    except StopIteration:
        pass
    except BadRow as error:
        failed = error

    def again() -> Iterator[bytes]:
        if held:
            yield held
        if failed is not None:
            raise failed
        yield from pieces

    return held[:count], again()


def _bytes(opened: Any, size: int) -> Iterator[bytes]:
    left = size
    while left > 0 and (piece := opened.read(min(PIECE, left))):
        left -= len(piece)
        yield piece


def _without(mark: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    first = True
    for piece in pieces:
        yield piece.removeprefix(mark) if first else piece
        first = False


def _as_utf8(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Halves of surrogate pairs come as bytes that are not UTF-8, which the row's reader names."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        for piece in pieces:
            yield decoder.decode(piece).removeprefix("\ufeff").encode("utf-8", "surrogatepass")
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise damaged(f"bytes that are not {encoding.upper()}, or its end inside a character") from error


def _unpacked(pieces: Iterable[bytes], most: int) -> Iterator[bytes]:
    """The content of gzip data, one member after another, up to `most` bytes of it."""
    unzip, ended, made = zlib.decompressobj(31), False, 0
    for piece in pieces:
        while piece:
            if ended:  # between members, where zeros may fill up a block
                piece, ended = piece.lstrip(b"\0"), not piece.strip(b"\0")
                unzip = zlib.decompressobj(31)
                continue
            before = unzip.copy()
            try:
                found = unzip.decompress(piece, UNPACKED)
            except zlib.error as error:
                yield from _up_to_the_damage(before, piece)
                checksum = "data check" in str(error)
                why = "whose checksum is wrong: rows may have changed" if checksum else f"that is damaged ({error})"
                raise damaged(f"gzip data {why}") from error
            yield found
            made += len(found)
            if made > most:
                raise too_large(f"more than {made >> 20} MiB when unpacked")
            piece, ended = (unzip.unused_data, True) if unzip.eof else (unzip.unconsumed_tail, False)
    if not ended:
        yield unzip.flush()
        raise damaged("gzip data that is cut off")


def _up_to_the_damage(unzip: Any, piece: bytes) -> Iterator[bytes]:
    """What can be unpacked of a damaged piece, byte by byte."""
    for i in range(len(piece)):
        try:
            yield unzip.decompress(piece[i : i + 1])
        except zlib.error:
            return
