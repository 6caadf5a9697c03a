"""Ctrl-C, SIGTERM and SIGUSR1 (a scheduler's notice) end the run in order: the journal says "stopped", the report is written, the
exit code is 128 and the signal's number.

A handler that only raises is not enough: what is raised inside a `__del__`, or inside a library that catches everything, is lost.
So the handler takes note as well, and `check`, which the work passes at every step, batch and stage, raises again.
"""

import os
import signal
import sys
import threading
from typing import Any

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGUSR1: "SIGUSR1"}
_asked: list[int] = []  # the first signal that came


class Stopped(SystemExit):
    """Ends the program. `code`: as a shell has it."""


def install() -> None:
    """Handlers for those of the signals that nobody handles yet (a launcher may)."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread can
    for number in NAMES:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _report_lost


def check() -> None:
    """Raises if a signal came."""
    if (found := stopped()) is not None:
        raise found


def stopped() -> Stopped | None:
    """What ends the program, if a signal came."""
    return Stopped(128 + _asked[0]) if _asked else None


def signal_name() -> str:
    """Of the signal that came."""
    return NAMES[signal.Signals(_asked[0])]


def _stop(number: int, frame: Any) -> None:
    if not _asked:
        _asked.append(number)
        check()
    elif number == signal.SIGINT:  # a second Ctrl-C: at once
        if sys.stdout.isatty():
            os.write(1, b"\x1b[?25h\n")  # a progress bar has hidden the cursor
        os._exit(128 + number)


def _report_lost(lost: Any) -> None:
    """Python prints what is raised in a `__del__`; ours is raised again by `check`."""
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)
