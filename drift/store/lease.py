"""Who computes a stage just now: a file beside it, made with O_EXCL (no hard links: not every file system has them).

Its holder moves the file's time, and it is taken over when that has stood still for `seconds` of the waiting process's own clock.
A holder that is known to be dead is not waited for. That can only be known of a process of the same boot of the same kernel and the
same PID namespace; elsewhere its number means nothing, or another process. A lease saves duplicate work and nothing hangs on it:
whoever loses his may go on, in folders of his own (see stage.py).
"""

import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from drift import stop
from drift.console import say
from drift.files import create

UNREADABLE_SECONDS = 2.0  # between the making of a lease and its first byte there is less; after a power cut it stays empty
SAID_AFTER_SECONDS = 5.0

Seen = tuple[Any, ...]  # what changes when a lease is renewed or another's


@contextmanager
def lease(final: Path, seconds: float, finished: Callable[[], bool]) -> Iterator[str | None]:
    """Waits until this process holds `final`'s lease, and renews it while held; its token. None if `final` was finished by another
    meanwhile."""
    path, me = final.with_name(final.name + ".lease"), _me()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _wait(path, me, seconds, finished):
        yield None
        return
    ended = threading.Event()
    beat = threading.Thread(target=_renew, args=(path, me["token"], ended, seconds / 5), daemon=True)
    beat.start()
    try:
        yield me["token"]
    finally:
        ended.set()
        beat.join()
        with suppress(OSError):  # an error of the work is the one to show
            if _token(path) == me["token"]:
                path.unlink()


def _wait(path: Path, me: dict[str, Any], seconds: float, finished: Callable[[], bool]) -> bool:
    """Whether the lease was got; False if it is needed no more."""
    begun = changed_at = time.monotonic()
    last, said = None, False
    while not _take(path, me):
        stop.check()
        try:
            holder, seen = _read(path)
        except FileNotFoundError:
            continue
        if finished():
            return False
        now = time.monotonic()
        if seen != last:  # its age is measured on our own clock: another host's may differ
            last, changed_at = seen, now
        patience = seconds if holder is not None else min(seconds, UNREADABLE_SECONDS)
        if now - changed_at > patience or (holder and _dead(holder)):
            if holder is None:
                say(f"  {path} can't be read: taken as absent")
            _remove(path, seen)
        elif not said and now - begun > SAID_AFTER_SECONDS:
            said, who = True, holder or {}
            say(f"  waiting for {who.get('host', 'another user')}, process {who.get('pid', 'unknown')}: it computes {path.stem}")
        time.sleep(min(0.2, seconds / 10))
    return True


def _take(path: Path, me: dict[str, Any]) -> bool:
    try:
        create(path, json.dumps(me).encode(), sync=False)
        return True
    except FileExistsError:
        return False


def _read(path: Path) -> tuple[dict[str, Any] | None, Seen]:
    """Who holds it, and what tells whether it moves. No holder: what is there is no lease. A holder without properties: it can't be
    read for now (another user's, or replaced under our hands on a network file system)."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))  # opened: a network file system then asks its server
    except OSError as error:
        if error.errno in (errno.EACCES, errno.ESTALE):
            status = path.stat()
            return {}, (status.st_ino, status.st_mtime_ns)
        if error.errno == errno.ELOOP:
            return None, ()  # a link
        raise
    with open(file, "rb") as opened:
        try:
            content, status = opened.read(4096), os.fstat(file)
        except OSError as error:
            if error.errno == errno.ESTALE:
                return {}, (time.monotonic(),)
            if error.errno == errno.EISDIR:
                return None, ()
            raise
    try:
        holder = json.loads(content)
    except (ValueError, RecursionError):
        holder = None
    known = isinstance(holder, dict) and all(name in holder for name in _me())
    return holder if known else None, (content, status.st_mtime_ns)


def _token(path: Path) -> str | None:
    """Of the holder, as far as that can be read."""
    try:
        holder, _ = _read(path)
    except FileNotFoundError:
        return None
    return (holder or {}).get("token")


def _renew(path: Path, token: str, ended: threading.Event, every: float) -> None:
    while not ended.wait(every):
        with suppress(OSError):  # a full or unreachable disk stops the work, not this thread
            if _token(path) != token:
                return
            os.utime(path)


def _remove(path: Path, judged: Seen) -> None:
    """Takes away the lease that was judged. If somebody else has done so and holds a new one, that is put back."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    with suppress(OSError):
        holder, seen = _read(aside)
        if seen != judged and holder:
            _take(path, holder)
    with suppress(OSError):
        aside.rmdir() if aside.is_dir() and not aside.is_symlink() else aside.unlink()


def _me() -> dict[str, Any]:
    """A new holder: this process, as others may know it."""
    pid = os.getpid()
    return {
        "token": secrets.token_hex(8), "host": socket.gethostname(), "pid": pid, "born": _born(pid), "where": _where()
    }  # fmt: skip


def _where() -> list[str] | None:
    """The boot and the PID namespace in which this process's number means it; None if the system doesn't say, or shows the
    processes of another namespace."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None
        return [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        return None


def _dead(holder: dict[str, Any]) -> bool:
    """Whether that is known."""
    return holder["where"] is not None and holder["where"] == _where() and _born(holder["pid"]) != holder["born"]


def _born(pid: Any) -> int | None:
    """When the process began, in clock ticks after the boot (its number may be another's by now, and clocks are set); None if there
    is none or it has ended."""
    try:
        after_name = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError, TypeError):
        return None
    return None if after_name[0] in ("Z", "X") else int(after_name[19])
