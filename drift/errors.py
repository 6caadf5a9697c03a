"""What a user can get wrong, said in one place: the message names the thing, what was expected, and what to do."""

import difflib
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can put right. Shown as its message alone, without a traceback."""


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the known name closest to `name`, or the list of known names when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(known)}."


def need_package(package: str, setting: str, *, extra: str) -> None:
    """Refuses a setting whose package, part of an optional extra, is not installed."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{setting} needs the package {package}. Install it: pip install -c constraints.txt -e '.[{extra}]'.")


@contextmanager
def memory_advice(setting: str, value: int) -> Iterator[None]:
    """Turns an out-of-memory error into one that names the setting to halve (DESIGN: never retried in silence)."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        smaller = max(1, value // 2)
        raise UserError(
            f"Out of memory with {setting}={value}. Halve it ({setting}={smaller}) and give the same command again: "
            f"finished stages are kept. ({error})"
        ) from error
