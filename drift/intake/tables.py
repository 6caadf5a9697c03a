"""Rows of tables: parquet, and the Arrow files that `datasets` writes (its cache, `save_to_disk`).

Row groups before a damaged one are handed out; then a BadRow about "(file)" is raised. Parquet's end says where its data is, so of
a file that was cut off nothing can be read.

The library `datasets` finds the files of a hub data set (drift/intake/hub.py) but does not read them: it copies all of a file into
its cache first, and gives the file up at the first damage and at the first row that can't be converted. Here pyarrow, with which it
reads, is asked for a few rows at a time.
"""

from collections.abc import Iterator
from typing import Any

from drift.intake.aside import BadRow, damaged
from drift.intake.contents import ARROW, most_unpacked, too_large
from drift.intake.json_rows import MOST, WIDTH, not_utf8

TOGETHER = 16  # rows, so that large ones don't take much memory together


def table_rows(opened: Any, begins: bytes, size: int, name: str) -> Iterator[Any]:
    import pyarrow

    opened.seek(0)
    made, most = 0, most_unpacked(size)
    failures = (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)
    try:
        batches = _arrow(opened, begins) if name.lower().endswith(".arrow") or begins.startswith(ARROW) else _parquet(opened)
        for batch in batches:
            made += batch.nbytes
            for start in range(0, batch.num_rows, TOGETHER):
                yield from _values(batch.slice(start, TOGETHER))
            if made > most:
                raise too_large(f"more than {made >> 20} MiB when unpacked")
    except BadRow:
        raise
    except failures as error:
        raise damaged(f"a table that is damaged or cut off ({_first(error)})") from error


def _parquet(opened: Any) -> Iterator[Any]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(opened)
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        if about.num_rows and about.total_byte_size // about.num_rows > MOST:
            found = f"larger ones in row group {group + 1}; the rest is not read"
            raise BadRow("(file)", f"rows of {WIDTH}", found, "row too large")
        yield from file.iter_batches(batch_size=TOGETHER, row_groups=[group], use_threads=False)


def _arrow(opened: Any, begins: bytes) -> Iterator[Any]:
    import pyarrow.ipc

    if begins.startswith(ARROW):
        file = pyarrow.ipc.open_file(opened)
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
    else:
        batches = iter(pyarrow.ipc.open_stream(opened))
    for batch in batches:
        batch.validate(full=True)  # Arrow trusts what it reads, and so would the conversion below
        yield batch


def _values(batch: Any) -> Iterator[Any]:
    """The rows of a batch as objects, each by itself if one of them is too large or can't be converted."""
    if batch.nbytes <= MOST:
        try:
            yield from batch.to_pylist()
            return
        except (ValueError, TypeError, OverflowError):  # of one row, found below
            pass
    for i in range(batch.num_rows):
        row = batch.slice(i, 1)
        try:
            yield BadRow("(row)", WIDTH, "more", "row too large") if row.nbytes > MOST else row.to_pylist()[0]
        except UnicodeDecodeError:
            yield not_utf8()
        except (ValueError, TypeError, OverflowError) as error:
            yield BadRow("(row)", "values that can be read", _first(error))


def _first(error: Exception) -> str:
    """The first line of a library's message, or what kind of error it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
