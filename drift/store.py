"""Stages: resumable pieces of work whose output directory is keyed by what went into it.

    store.run("reference", work, version=1, settings={...}, inputs={...}) -> Stage

The key is the sha256 of (format, name, version, settings, inputs); a configured part stands in `settings` by its `identity` (see
identity.py), the source file of its class included. A finished stage is a directory `DIR/NAME/KEY` that was renamed
into place; so a killed run leaves nothing half-written, and the same command again finishes what is missing. The manifest,
not the key, records commit, versions, device and threads. A lease only saves duplicate work: correctness comes from the
rename, and whoever comes second throws its own copy away.
"""

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from drift import stop
from drift.errors import UserError, writable
from drift.records import digest, write_json

MANIFEST = "manifest.json"
FORMAT = 2  # of the manifest: a store of another one is as good as empty
Work = Callable[[Path, Path], dict[str, Any]]  # (progress folder, output folder) -> facts for the manifest


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A finished stage: `path` holds its outputs, `facts` what its work reported, `hit` says that nothing was computed.
    `peak_gib`: the most memory that the computing process had used when it was done (of the GPU, if it had one)."""

    name: str
    path: Path
    facts: dict[str, Any]
    seconds: float
    peak_gib: float
    hit: bool


@dataclass(frozen=True, kw_only=True)
class Store:
    """`dir`: shared by all members of a sweep. `strict`: refuse a stage made by other code or library versions.
    `lease_seconds`: a lease that has not moved for so long is taken over."""

    dir: str
    strict: bool
    lease_seconds: float
    log: list[Stage] = field(default_factory=list, init=False)  # every stage asked for, in order
    found: Counter[str] = field(default_factory=Counter, init=False)  # of these, by name, what was found and not said yet

    def run(self, name: str, work: Work, *, version: int, settings: dict[str, Any], inputs: dict[str, str]) -> Stage:
        """Returns the finished stage, computing it unless it is there. `work` may find its own earlier progress."""
        parts = {"format": FORMAT, "stage": name, "version": version, "settings": settings, "inputs": inputs}
        final = Path(self.dir).resolve() / name / digest(parts)[:24]
        stop.check()
        stage = self._finished(name, final)
        if stage is None:
            self.say_found()
            with writable(Path(self.dir), "store.dir"), lease(final, self.lease_seconds):
                stage = self._finished(name, final) or self._compute(name, final, work, parts)
        if stage.hit:
            self.found[name] += 1
        self.log.append(stage)
        return stage

    def say_found(self) -> None:
        """What was found since this was said last, in a line: so a run that goes on says from where."""
        if self.found:
            print("  found in the store: " + ", ".join(f"{count} {name}" for name, count in self.found.items()), flush=True)
            self.found.clear()

    def _finished(self, name: str, final: Path) -> Stage | None:
        if not (final / MANIFEST).is_file():
            return None
        manifest = json.loads((final / MANIFEST).read_text(encoding="utf-8"))
        made, here = manifest["environment"], environment()
        other = [f"{part} {made[part]} -> {here[part]}" for part in here if made[part] != here[part]]
        if other and self.strict:
            raise UserError(
                f"{final} was made in another environment ({', '.join(other)}) and store.strict=true. "
                "Use another store.dir, or store.strict=false to reuse it with a warning."
            )
        if other:
            warn_once(f"Reusing stages of {self.dir} that were made in another environment: {', '.join(other)}.")
        kept = {part: manifest[part] for part in ("facts", "seconds", "peak_gib")}
        return Stage(name=name, path=final, hit=True, **kept)

    def _compute(self, name: str, final: Path, work: Work, parts: dict[str, Any]) -> Stage:
        progress = final.with_name(final.name + ".progress")
        output = final.with_name(f"{final.name}.output.{socket.gethostname()}.{os.getpid()}")
        shutil.rmtree(output, ignore_errors=True)
        progress.mkdir(parents=True, exist_ok=True)
        output.mkdir()
        started = time.monotonic()
        facts = work(progress, output)
        seconds = round(time.monotonic() - started, 3)
        kept = {"facts": facts, "seconds": seconds, "peak_gib": peak_gib()}
        write_json(output / MANIFEST, parts | kept | {"environment": environment()})
        try:
            os.rename(output, final)
        except OSError:  # somebody finished the same stage first; theirs is as good
            if not (final / MANIFEST).is_file():
                raise
            shutil.rmtree(output)
        shutil.rmtree(progress, ignore_errors=True)
        for left in final.parent.glob(f"{final.name}.output.{socket.gethostname()}.*"):  # of processes that were killed
            if not psutil.pid_exists(int(left.name.rsplit(".", 1)[1])):
                shutil.rmtree(left, ignore_errors=True)
        return Stage(name=name, path=final, hit=False, **kept)


@contextmanager
def lease(final: Path, seconds: float) -> Iterator[None]:
    """Waits until this process holds `final`'s lease or `final` is finished by another; renews it while held."""
    path = final.with_name(final.name + ".lease")
    path.parent.mkdir(parents=True, exist_ok=True)
    me = {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid()), "thread": threading.get_ident()}
    owner: dict[str, Any] = me | {"beat": 0}
    seen, seen_at = None, time.monotonic()
    while not _take(path, owner):
        if (final / MANIFEST).is_file():
            break
        try:
            content = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        if content != seen:  # age is measured on our own clock: another host's may differ
            seen, seen_at = content, time.monotonic()
        if _dead(content) or time.monotonic() - seen_at > seconds:
            path.unlink(missing_ok=True)
            continue
        time.sleep(min(0.2, seconds / 10))
    stop = threading.Event()
    beat = threading.Thread(target=_renew, args=(path, owner, stop, seconds / 5), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        if _held(path, owner):
            path.unlink(missing_ok=True)


def _take(path: Path, owner: dict[str, Any]) -> bool:
    temporary = path.with_name(f"{path.name}.{owner['host']}.{owner['pid']}.{owner['thread']}")
    temporary.write_text(json.dumps(owner), encoding="utf-8")
    try:
        os.link(temporary, path)  # fails if the lease exists: the content is there from the first moment
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink()


def _renew(path: Path, owner: dict[str, Any], stop: threading.Event, every: float) -> None:
    while not stop.wait(every):
        if not _held(path, owner):
            return
        owner["beat"] += 1
        write_json(path, owner)


def _held(path: Path, owner: dict[str, Any]) -> bool:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return all(holder[part] == owner[part] for part in ("host", "pid", "thread"))


def _dead(content: str) -> bool:
    holder = json.loads(content)
    born = _born(holder["pid"])
    return holder["host"] == socket.gethostname() and (born is None or abs(born - holder["born"]) > 5)


def _born(pid: int) -> float | None:
    """When the process began, in seconds (its number may be another's by now); None if there is none or it has ended."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """What may change a stage's numbers without being one of its inputs: recorded in the manifest, compared on reuse."""
    import torch

    found = {"commit": _commit(), "python": platform.python_version(), "machine": platform.machine()}
    for package in ("torch", "transformers", "peft", "lightning", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found["threads"] = str(torch.get_num_threads())
    return found


def peak_gib() -> float:
    """The most memory this process has used so far: of the GPU if there is one."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)  # Linux counts in KiB


def _commit() -> str:
    here = Path(__file__).resolve().parent
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return asked.stdout.strip() or "no git"


@cache
def warn_once(message: str) -> None:
    print(f"Note: {message}", flush=True)
