"""Leases say which process is computing a stage: a file beside it, created with O_EXCL (no hard links: not every file system has
them).

The holder keeps updating the file's time; the lease is taken over when the time has not changed for `seconds` on the waiting
process's own clock. Nobody waits for a holder that is known to be dead, but this can be known only of a process in the same boot
and PID namespace; elsewhere its number may belong to another process. A lease only saves duplicate work: a process that loses it
may continue, in folders of its own (see stage.py)."""

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

UNREADABLE_SECONDS = 2.0  # a new lease gets its content faster than this; after a power cut it stays empty
SAID_AFTER_SECONDS = 5.0
ELSEWHERE_SECONDS = 86400.0  # for whoever removes things: a process elsewhere, without a sign of life for this long, has ended

Seen = tuple[Any, ...]  # changes when a lease is renewed or taken over


@contextmanager
def lease(final: Path, seconds: float, finished: Callable[[], bool]) -> Iterator[str | None]:
    """Waits for the lease of `final`, yields its token and renews it while it is held. Yields None if another process has finished
    `final` meanwhile."""
    path, me = final.with_name(final.name + ".lease"), holder_of_this_process()
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
        with suppress(OSError):  # an error of the work is more important
            if _token(path) == me["token"]:
                path.unlink()


def held(path: Path) -> bool:
    """Whether the process that wrote this lease may still be alive."""
    try:
        holder, _ = _read(path)
        return may_live(holder, path.lstat().st_mtime)
    except FileNotFoundError:
        return False


def may_live(holder: dict[str, Any] | None, modified: float) -> bool:
    """Whether a holder may still be alive; `modified`: when its file was last renewed. This is known of a process in the same boot
    and PID namespace."""
    if holder and holder["where"] is not None and holder["where"] == _where():
        return not _dead(holder)
    return time.time() - modified < ELSEWHERE_SECONDS


def _wait(path: Path, me: dict[str, Any], seconds: float, finished: Callable[[], bool]) -> bool:
    """Whether the lease was obtained; False if it is no longer needed."""
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
        if seen != last:  # measured on our own clock: another host's may differ
            last, changed_at = seen, now
        patience = seconds if holder is not None else min(seconds, UNREADABLE_SECONDS)
        if now - changed_at > patience or (holder and _dead(holder)):
            if holder is None:
                say(f"  {path} can't be read: ignored")
            _remove(path, seen)
        elif not said and now - begun > SAID_AFTER_SECONDS:
            said, who = True, holder or {}
            say(
                f"  waiting for {who.get('host', 'another user')}, process {who.get('pid', 'unknown')}: it is computing {path.stem}"
            )
        time.sleep(min(0.2, seconds / 10))
    return True


def _take(path: Path, me: dict[str, Any]) -> bool:
    try:
        create(path, json.dumps(me).encode(), sync=False)
        return True
    except FileExistsError:
        return False


def _read(path: Path) -> tuple[dict[str, Any] | None, Seen]:
    """(holder, what changes when the lease is renewed). None as holder: the file is not a lease. An empty holder: the lease can't
    be read at the moment (it is another user's, or is being replaced on a network file system)."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))  # opening makes a network file system ask its server
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
    known = isinstance(holder, dict) and all(name in holder for name in holder_of_this_process())
    return holder if known else None, (content, status.st_mtime_ns)


def _token(path: Path) -> str | None:
    """The holder's token, if the lease can be read."""
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


def _remove(path: Path, expected: Seen) -> None:
    """Removes the lease that was seen as `expected`. If another process has already replaced it by a new one, that is restored."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    with suppress(OSError):
        holder, seen = _read(aside)
        if seen != expected and holder:
            _take(path, holder)
    with suppress(OSError):
        aside.rmdir() if aside.is_dir() and not aside.is_symlink() else aside.unlink()


def holder_of_this_process() -> dict[str, Any]:
    """A new holder: how other processes can identify this one."""
    pid = os.getpid()
    return {
        "token": secrets.token_hex(8), "host": socket.gethostname(), "pid": pid, "born": _born(pid), "where": _where()
    }  # fmt: skip


def _where() -> list[str] | None:
    """The boot and the PID namespace in which this process's number is valid; None if the system doesn't say, or shows the
    processes of another namespace."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None
        return [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        return None


def _dead(holder: dict[str, Any]) -> bool:
    """Whether the holder is known to be dead."""
    return holder["where"] is not None and holder["where"] == _where() and _born(holder["pid"]) != holder["born"]


def _born(pid: Any) -> int | None:
    """When a process started, in clock ticks after the boot (process numbers are reused, and clocks are adjusted); None if there
    is no such process or it has ended."""
    try:
        after_name = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError, TypeError):
        return None
    return None if after_name[0] in ("Z", "X") else int(after_name[19])
