"""Limits on the computing time and memory of foreign code (a chat template) that runs in this process."""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AGAIN = 0.2  # seconds between further signals: a library may swallow the first exception


class TooLong(Exception):
    """The computing time is used up."""


@contextmanager
def bounded(*, seconds: float, memory: int) -> Iterator[None]:
    """Raises TooLong after `seconds` of the process's own computing time, and MemoryError if the process grows by more than
    `memory` bytes (on Linux). Works in the main thread only; elsewhere nothing is limited."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGVTALRM, _too_long)
    try:
        if (size := _size()) is not None:
            most = min([size + memory, *(old for old in (soft, hard) if old != resource.RLIM_INFINITY)])
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds, AGAIN)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, handler)


def _size() -> int | None:
    """Bytes of this process's address space, or None; fast, because it is called for every rendering."""
    try:
        file = os.open("/proc/self/statm", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return int(os.read(file, 100).split()[0]) * os.sysconf("SC_PAGE_SIZE")
    finally:
        os.close(file)


def _too_long(*_: Any) -> None:
    raise TooLong
