"""What is known of large files, remembered across processes in the cache folder while the files are the same by inode, size and
times: 28 GB of weights are hashed and checked once, not once per job. Where nothing can be kept, everything is found out again."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drift.files import replace
from drift.identity import code
from drift.model.cached import cache
from drift.records import digest

SETTLED_SECONDS = 2.0  # a younger file may change once more without a new time


def remembered(what: Any, files: Iterable[Path], find: Callable[[], str]) -> str:
    """The result of `find()`, a line of text about these files. `what`: the question, with everything else that the answer depends
    on, as plain data."""
    files = sorted(file.resolve() for file in files)
    status = _status(files)
    key = digest([what, status])
    kept = cache(None) / "remembered" / key[:2] / key
    with suppress(OSError, ValueError):
        value, check = kept.read_text(encoding="utf-8").splitlines()
        if check == digest([key, value]):
            return value
    value = find()
    changed = max((max(modified, created) for *_, modified, created in status), default=0) / 1e9
    if time.time() - changed > SETTLED_SECONDS and _status(files) == status:
        with suppress(OSError):
            replace(kept, f"{value}\n{digest([key, value])}\n".encode())
    return value


def passed(check: Callable[..., None], directories: Iterable[Path], settings: Any, run: Callable[[], None]) -> None:
    """Calls `run()`, which raises an error or finds nothing wrong, unless that is known of these directories. `check`: the function
    that it calls, `settings`: what it is told: with another code, other settings or other libraries it is called again."""

    def find() -> str:
        run()
        return "passed"

    libraries = [version(name) for name in ("torch", "transformers", "peft")]
    files = {file for directory in directories for file in directory.iterdir() if file.is_file()}
    remembered([f"{check.__module__}.{check.__qualname__}", code(check), settings, libraries], files, find)


def _status(files: list[Path]) -> list[list[Any]]:
    return [
        [str(file), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        for file in files
        for status in [file.stat()]
    ]
