"""Finding and computing stages. Every process writes to its own folders, with random names:

DIR/NAME/KEY/                   finished: manifest.json and the outputs that it lists
DIR/NAME/KEY.lease              which process is computing it
DIR/NAME/KEY.progress.TOKEN/    saved progress; whoever gets the lease takes it over by renaming it
DIR/NAME/KEY.output.TOKEN/      outputs, until they are renamed into place
DIR/NAME/KEY.damaged.TOKEN/     a stage that did not match its manifest
DIR/NAME/KEY.gone.TOKEN/        being removed
DIR/runs/                       which folders use which stages (users.py)
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from drift import stop
from drift.console import say
from drift.errors import UserError, writable
from drift.files import beside, discard, put
from drift.records import digest
from drift.store import manifest, retention
from drift.store.disk import NEARLY_FULL, free_bytes, in_bytes
from drift.store.environment import differences, environment, peak_gib
from drift.store.lease import lease
from drift.store.users import User, wait_for_removal

Work = Callable[[Path, Path], dict[str, Any]]  # (progress folder, output folder) -> facts for the manifest


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A finished stage. `path`: the directory with its outputs. `facts`: what its work reported. `hit`: nothing had to be computed.
    `peak_gib`: the peak memory of the computing process until then (of the GPU, if it had one)."""

    name: str
    path: Path
    facts: dict[str, Any]
    seconds: float
    peak_gib: float
    hit: bool

    def elsewhere(self) -> list[str]:
        """What differs between the environment that made it and this one, with both values."""
        return differences((manifest.listed(self.path) or {"environment": environment()})["environment"])


@dataclass(frozen=True, kw_only=True)
class Store:
    """`dir`: shared by all members of a sweep. `strict`: refuse a stage made by other code or library versions. `verify`: check the
    content of large files too before reuse. `lease_seconds`: a lease that has not been renewed for this long is taken over.
    `keep_policies`: how many of a run's last fully trained policies are kept, besides the best one; see retention.py."""

    dir: str
    strict: bool
    verify: bool
    lease_seconds: float
    keep_policies: int | Literal["all"]
    users: list[User] = field(default_factory=list, init=False)  # the folders that this process computes for
    log: list[Stage] = field(default_factory=list, init=False)  # every requested stage, in order
    unreported_hits: Counter[str] = field(default_factory=Counter, init=False)  # stages found in the store, by name

    def check(self) -> None:
        if self.keep_policies != "all" and self.keep_policies < 1:
            raise UserError(f"store.keep_policies={self.keep_policies}: expected all, or at least 1.")
        if not 1 <= self.lease_seconds <= 1e6:
            raise UserError(f"store.lease_seconds={self.lease_seconds}: expected 1 to 1,000,000.")

    def used_by(self, folder: Path) -> User:
        """From now on, every requested stage is written down as one of this folder's, until `User.end`."""
        user = User(Path(self.dir), folder, self.lease_seconds)
        self.users.append(user)
        return user

    def note(self, *paths: Path) -> None:
        """Writes down that policies in these directories are used, if they are stages of this store."""
        for user in self.users:
            for path in paths:
                user.note_path(path)

    def run(self, name: str, work: Work, *, version: int, settings: dict[str, Any], inputs: dict[str, str]) -> Stage:
        """Returns the finished stage, computing it if necessary. `work` may find the progress of an earlier attempt."""
        parts = _parts(name, version, settings, inputs)
        final = self._place(parts)
        stop.check()
        for user in self.users:
            user.note(f"{name}/{final.name}")
        with writable(Path(self.dir), "store.dir"):
            wait_for_removal(final.parent.parent)
            tidy(final.parent)
            stage = self._finished(final)
            if stage is None:
                self.say_found()
            while stage is None:
                with lease(final, self.lease_seconds, lambda: self._finished(final) is not None) as token:
                    stage = self._finished(final)
                    if stage is None and token is not None:
                        stage = self._compute(name, final, work, parts, token)
        if stage.hit:
            self.unreported_hits[name] += 1
        self.log.append(stage)
        return stage

    def find(self, name: str, *, version: int, settings: dict[str, Any], inputs: dict[str, str]) -> Stage | None:
        """The finished stage, if it is in the store; computes nothing."""
        return self._finished(self._place(_parts(name, version, settings, inputs)))

    def _place(self, parts: dict[str, Any]) -> Path:
        return Path(self.dir).resolve() / parts["stage"] / digest(parts)[:24]

    def dollars(self, first: int = 0) -> dict[str, float]:
        """What the stages from this one in the log on have cost, and those inside them, by the names that the judge gave them."""
        return {name: dollars for stage in self.log[first:] for name, dollars in stage.facts.get("dollars", {}).items()}

    def say_found(self) -> None:
        """Prints a line with the stages found since the last such line, so that a resumed run shows where it continues."""
        if self.unreported_hits:
            print(
                "  found in the store: " + ", ".join(f"{count} {name}" for name, count in self.unreported_hits.items()), flush=True
            )
            self.unreported_hits.clear()

    def _finished(self, final: Path) -> Stage | None:
        """The stage, if it exists and is undamaged."""
        try:
            found = manifest.read(final, verify=self.verify)
        except manifest.Damaged:
            return None
        if found is None or (self.keep_policies == "all" and retention.lacks_weights(final, found)):
            return None
        other = differences(found["environment"])
        if other and self.strict:
            raise UserError(
                f"{final} was made in another environment ({', '.join(other)}) and store.strict=true. "
                "Use another store.dir, or store.strict=false to reuse it with a warning."
            )
        if other:
            warn_once(f"Reusing stages of {self.dir} that were made in another environment: {', '.join(other)}.")
        kept = {part: found[part] for part in ("facts", "seconds", "peak_gib")}
        return Stage(name=final.parent.name, path=final, hit=True, **kept)

    def _compute(self, name: str, final: Path, work: Work, parts: dict[str, Any], token: str) -> Stage:
        """Computes the stage under the lease with this token. If the lease is lost and another process is faster, its result is
        used."""
        self._set_damaged_aside(final)
        if (free := free_bytes(final.parent)) < NEARLY_FULL:
            warn_once(
                f"only {in_bytes(free)} are left on the disk of {self.dir}. If they run out, the run stops with everything kept, "
                f"and the same command goes on. To free some: drift store {self.dir}"
            )
        progress, output = _progress(final, token), final.with_name(f"{final.name}.output.{token}")
        try:
            with writable(Path(self.dir), "store.dir"):  # a full disk is recognised only before anything is removed
                output.mkdir()
                first = len(self.log)
                started = time.monotonic()
                facts = work(progress, output)
                if inside := self.dollars(first):
                    facts |= {"dollars": inside}
                seconds = round(time.monotonic() - started, 3)
                kept = {"facts": facts, "seconds": seconds, "peak_gib": peak_gib()}
                manifest.write(output, parts | kept | {"environment": environment()})
                for user in self.users:
                    user.sync()
                self._put(output, final)
        except BaseException as error:
            lost = isinstance(error, Exception) and not output.is_dir()
            discard(output)
            with suppress(OSError):  # fails if there is progress to keep
                progress.rmdir()
            if lost and (theirs := self._finished(final)) is not None:
                return theirs
            raise
        _discard_leftovers(final, [path for path in final.parent.glob(f"{final.name}.*") if path.name != f"{final.name}.lease"])
        return Stage(name=name, path=final, hit=False, **kept)

    def _put(self, output: Path, final: Path) -> None:
        try:
            put(output, final)
        except OSError:  # something is in its place
            if self._finished(final) is not None:
                discard(output)
                return
            if not final.exists():
                raise
            self._set_damaged_aside(final)
            if final.exists():  # a policy without its weights
                discard(final)
            put(output, final)

    def _set_damaged_aside(self, final: Path) -> None:
        """Moves away whatever is in the place of an unfinished stage, and keeps it."""
        try:
            manifest.read(final, verify=self.verify)
        except manifest.Damaged as damaged:
            aside = beside(final, "damaged")
            os.rename(final, aside)
            say(f"  {final} is damaged ({damaged}): it is computed again, and the damaged files are kept in {aside.name}")


def _parts(name: str, version: int, settings: dict[str, Any], inputs: dict[str, str]) -> dict[str, Any]:
    """What a stage's key is made of."""
    return {"format": manifest.FORMAT, "stage": name, "version": version, "settings": settings, "inputs": inputs}


def _progress(final: Path, token: str) -> Path:
    """This process's progress folder, with what the last holder of the lease left. If that process is still alive (it was paused,
    for example, and lost its lease), it finds its folder gone."""
    own = final.with_name(f"{final.name}.progress.{token}")
    left = sorted(final.parent.glob(f"{final.name}.progress.*"), key=_modified, reverse=True)
    for earlier in left:
        with suppress(OSError):
            os.rename(earlier, own)
            return own
    own.mkdir()
    return own


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@cache
def tidy(kind: Path) -> None:
    """Removes what killed processes left beside finished stages; once per process."""
    for path in sorted(kind.glob("*.*")):
        final = kind / path.name.partition(".")[0]
        if retention.is_whole(final):
            _discard_leftovers(final, [path])


def _discard_leftovers(final: Path, beside_it: list[Path]) -> None:
    """Discards leftovers beside a finished stage, except damaged copies; a process that still computes it will find it finished."""
    for path in beside_it:
        if not path.name.startswith(f"{final.name}.damaged."):
            discard(path)


@cache
def warn_once(message: str) -> None:
    print(f"Note: {message}", flush=True)
