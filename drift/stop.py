"""Ctrl-C, SIGTERM and SIGUSR1 (a scheduler's notice) end the run cleanly: the journal says "stopped", the report is written, the
exit code is 128 plus the signal's number.

A handler that only raises is not enough: an exception inside a `__del__`, or inside a library that catches everything, is lost. So
the handler also records the signal, and `check`, which is called at every step, batch and stage, raises again.
"""

import os
import signal
import sys
import threading
from typing import Any

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGUSR1: "SIGUSR1"}
_asked: list[int] = []  # the first signal received


class Stopped(SystemExit):
    """Ends the program with an exit `code` as in a shell."""


def install() -> None:
    """Installs handlers for those signals that have none yet (a launcher may have set some)."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread can set handlers
    for number in NAMES:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _report_lost


def check() -> None:
    """Raises Stopped if a signal has been received."""
    if (found := stopped()) is not None:
        raise found


def stopped() -> Stopped | None:
    """The exception that ends the program, if a signal has been received."""
    return Stopped(128 + _asked[0]) if _asked else None


def signal_number() -> int | None:
    """The number of the signal received, if there was one."""
    return _asked[0] if _asked else None


def signal_name() -> str:
    """The name of the signal received."""
    return NAMES[signal.Signals(_asked[0])]


def _stop(number: int, frame: Any) -> None:
    if not _asked:
        _asked.append(number)
        check()
    elif number == signal.SIGINT:  # a second Ctrl-C: at once
        if sys.stdout.isatty():
            os.write(1, b"\x1b[?25h\n")  # shows the cursor again, which a progress bar may have hidden
        os._exit(128 + number)


def _report_lost(lost: Any) -> None:
    """Python prints exceptions raised in a `__del__`; Stopped is not printed, because `check` raises it again."""
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)
