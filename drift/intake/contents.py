"""The content of a text file in pieces, judged by its bytes and not by its name: gzip is unpacked, UTF-16 becomes UTF-8.

Only one piece is in memory at a time. Where a file can't be read any further, a BadRow about "(file)" is raised, after everything
before that point has been yielded. No more bytes are read than the file had when it was opened, even if it grows.
"""

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from drift.intake.aside import BadRow, damaged

PIECE = 1 << 16  # bytes read from a file at a time
UNPACKED = 1 << 20  # bytes unpacked at a time
MAX_UNPACK_RATIO, SPARE_BYTES = 300, 1 << 30  # a file may unpack to this many times its size plus this many bytes
GZIP, PARQUET, ARROW, STREAM = b"\x1f\x8b", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
POINTER = b"version https://git-lfs.github.com/spec/"
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive", b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x89PNG": "a picture", b"%PDF": "a PDF", b"SQLite format": "an SQLite database",
}  # fmt: skip
BEGINNING = 64  # bytes, enough to recognise a format
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
UTF16_START = re.compile(rb'[\[{]\0[\s"\[{]\0|\0[\[{]\0[\s"\[{]', re.DOTALL)  # the first characters of JSON in UTF-16
AS_UTF8 = "save the file as UTF-8 (as `iconv -f ENCODING -t UTF-8` does)"


def most_unpacked(size: int) -> int:
    """How many bytes a compressed file of `size` bytes may unpack to."""
    return SPARE_BYTES + MAX_UNPACK_RATIO * size


def too_large(unpacked: str) -> BadRow:
    return BadRow(
        "(file)", f"at most {MAX_UNPACK_RATIO} times its size and {SPARE_BYTES >> 30} GiB more when unpacked", unpacked,
        "file too large",
        "if this is not a mistake, unpack the file or split it; the rows read so far are used",
    )  # fmt: skip


def refuse_other_formats(head: bytes, name: str) -> None:
    """Raises BadRow for a file that can't hold rows: a Git LFS pointer, an archive, a picture."""
    if head.startswith(POINTER):
        raise BadRow(
            "(file)", "the file itself", "a Git LFS pointer in its place", "Git LFS pointer",
            f"fetch the file: git lfs pull --include='*{name}'",
        )  # fmt: skip
    for magic, kind in OTHER_FORMATS.items():
        if head.startswith(magic):
            raise BadRow("(file)", "JSON rows, or a table", kind, "file not read", "unpack or convert it, or leave it out")


def utf8_pieces(opened: Any, size: int, name: str) -> Iterator[bytes]:
    """The first `size` bytes of a file, unpacked, as UTF-8 without a byte-order mark."""
    packed, pieces = peek(_bytes(opened, size))
    if packed.startswith(GZIP):
        pieces = _unpacked(pieces, most_unpacked(size))
    elif name.lower().endswith(".gz") and not packed:
        raise damaged("no bytes at all", "gzip data")
    head, pieces = peek(pieces)
    refuse_other_formats(head, name)
    mark, encoding = next(((mark, known) for mark, known in BYTE_ORDER_MARKS if head.startswith(mark)), (b"", "utf-8"))
    if not mark and UTF16_START.match(head):
        raise BadRow("(file)", "text in UTF-8", "UTF-16 without a byte-order mark", "not UTF-8", AS_UTF8)
    return _strip_mark(mark, pieces) if encoding == "utf-8" else _as_utf8(pieces, encoding)


def peek(pieces: Iterator[bytes], count: int = BEGINNING) -> tuple[bytes, Iterator[bytes]]:
    """(the first `count` bytes, all pieces). An error in the pieces is raised when they are consumed, not here."""
    head, failed = b"", None
    try:
        while len(head) < count:
            head += next(pieces)
    except StopIteration:
        pass
    except BadRow as error:
        failed = error

    def replay() -> Iterator[bytes]:
        if head:
            yield head
        if failed is not None:
            raise failed
        yield from pieces

    return head[:count], replay()


def _bytes(opened: Any, size: int) -> Iterator[bytes]:
    left = size
    while left > 0 and (piece := opened.read(min(PIECE, left))):
        left -= len(piece)
        yield piece


def _strip_mark(mark: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    first = True
    for piece in pieces:
        yield piece.removeprefix(mark) if first else piece
        first = False


def _as_utf8(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Half a surrogate pair becomes bytes that are not UTF-8; the row reader reports them."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    try:
        for piece in pieces:
            yield decoder.decode(piece).removeprefix("\ufeff").encode("utf-8", "surrogatepass")
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise damaged(f"bytes that are not {encoding.upper()}, or an end inside a character") from error


def _unpacked(pieces: Iterable[bytes], most: int) -> Iterator[bytes]:
    """The unpacked content of gzip data, member by member; BadRow beyond `most` bytes."""
    unzip, ended, unpacked_bytes = zlib.decompressobj(31), False, 0
    for piece in pieces:
        while piece:
            if ended:  # between members: zeros may pad a block
                piece, ended = piece.lstrip(b"\0"), not piece.strip(b"\0")
                unzip = zlib.decompressobj(31)
                continue
            before = unzip.copy()
            try:
                unpacked = unzip.decompress(piece, UNPACKED)
            except zlib.error as error:
                yield from _unpack_before_damage(before, piece)
                checksum = "data check" in str(error)
                why = "whose checksum is wrong: rows may have changed" if checksum else f"that is damaged ({error})"
                raise damaged(f"gzip data {why}") from error
            yield unpacked
            unpacked_bytes += len(unpacked)
            if unpacked_bytes > most:
                raise too_large(f"more than {unpacked_bytes >> 20} MiB when unpacked")
            piece, ended = (unzip.unused_data, True) if unzip.eof else (unzip.unconsumed_tail, False)
    if not ended:
        yield unzip.flush()
        raise damaged("gzip data that is cut off")


def _unpack_before_damage(unzip: Any, piece: bytes) -> Iterator[bytes]:
    """As much of a damaged piece as can be unpacked, byte by byte."""
    for i in range(len(piece)):
        try:
            yield unzip.decompress(piece[i : i + 1])
        except zlib.error:
            return
