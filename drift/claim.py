"""One process at a time per file, by a lock of the operating system, which is released when its process ends, however it ends.

The lock is on a separate file that is removed with the lock. On file systems without locks nobody waits: work may be done twice,
but files are still written atomically."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

LOOK_EVERY_SECONDS = 0.05


@asynccontextmanager
async def claimed(file: Path, seconds: float) -> AsyncIterator[None]:
    """Waits until no other process holds the claim on `file`, for at most `seconds` (a longer claim means a paused process)."""
    path, until = file.with_name(f"{file.name}.lock"), time.monotonic() + seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    while (lock := _take(path)) is None and time.monotonic() < until:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
    try:
        yield
    finally:
        if lock is not None:
            path.unlink(missing_ok=True)
            os.close(lock)


def _take(path: Path) -> int | None:
    """The open lock, or None while another process holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(path)):
            return lock
    except FileNotFoundError:  # its holder has just removed it
        pass
    except BlockingIOError:
        pass
    except OSError:  # a file system without locks
        return lock
    os.close(lock)
    return None
