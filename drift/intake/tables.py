"""Rows of tables: parquet, and the Arrow files that `datasets` writes (its cache, `save_to_disk`).

Row groups before a damaged one are yielded; then a BadRow about "(file)" is raised. The end of a parquet file says where its data
is, so nothing can be read from a truncated one.

The library `datasets` finds the files of a hub data set (drift/intake/hub.py) but does not read them: it would first copy a whole
file into its cache, and give up at the first damage or the first row that can't be converted. Here pyarrow, which it uses itself,
reads a few rows at a time.
"""

from collections.abc import Iterator
from typing import Any

from drift.intake.aside import BadRow, damaged
from drift.intake.contents import ARROW, most_unpacked, too_large
from drift.intake.json_rows import MAX_ROW_BYTES, MAX_ROW_TEXT, not_utf8

BATCH_ROWS = 16  # few, so that large rows don't take much memory


def table_rows(opened: Any, start: bytes, size: int, name: str) -> Iterator[Any]:
    import pyarrow

    opened.seek(0)
    unpacked, most = 0, most_unpacked(size)
    failures = (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)
    try:
        batches = _arrow(opened, start) if name.lower().endswith(".arrow") or start.startswith(ARROW) else _parquet(opened)
        for batch in batches:
            unpacked += batch.nbytes
            for i in range(0, batch.num_rows, BATCH_ROWS):
                yield from _values(batch.slice(i, BATCH_ROWS))
            if unpacked > most:
                raise too_large(f"more than {unpacked >> 20} MiB when unpacked")
    except BadRow:
        raise
    except failures as error:
        raise damaged(f"a table that is damaged or cut off ({_first_line(error)})") from error


def _parquet(opened: Any) -> Iterator[Any]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(opened)
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        if metadata.num_rows and metadata.total_byte_size // metadata.num_rows > MAX_ROW_BYTES:
            found = f"larger ones in row group {group + 1}; the rest is not read"
            raise BadRow("(file)", f"rows of {MAX_ROW_TEXT}", found, "row too large")
        yield from file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], use_threads=False)


def _arrow(opened: Any, start: bytes) -> Iterator[Any]:
    import pyarrow.ipc

    if start.startswith(ARROW):
        file = pyarrow.ipc.open_file(opened)
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
    else:
        batches = iter(pyarrow.ipc.open_stream(opened))
    for batch in batches:
        batch.validate(full=True)  # Arrow trusts what it reads, and so would the conversion below
        yield batch


def _values(batch: Any) -> Iterator[Any]:
    """The rows of a batch as objects; converted one by one if any of them is too large or can't be converted."""
    if batch.nbytes <= MAX_ROW_BYTES:
        try:
            yield from batch.to_pylist()
            return
        except (ValueError, TypeError, OverflowError):  # one of the rows; which one is found below
            pass
    for i in range(batch.num_rows):
        row = batch.slice(i, 1)
        try:
            yield BadRow("(row)", MAX_ROW_TEXT, "more", "row too large") if row.nbytes > MAX_ROW_BYTES else row.to_pylist()[0]
        except UnicodeDecodeError:
            yield not_utf8()
        except (ValueError, TypeError, OverflowError) as error:
            yield BadRow("(row)", "values that can be read", _first_line(error))


def _first_line(error: Exception) -> str:
    """The first line of a library's error message, or else the type of the error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
