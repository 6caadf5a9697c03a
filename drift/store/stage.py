"""Finding and computing stages. Every process writes to folders of its own, with names that nobody can guess:

DIR/NAME/KEY/                   finished: manifest.json and the outputs that it lists
DIR/NAME/KEY.lease              who computes it just now
DIR/NAME/KEY.progress.TOKEN/    what its computation goes on from; whoever gets the lease takes it over by a rename
DIR/NAME/KEY.output.TOKEN/      outputs, until they are renamed into place
DIR/NAME/KEY.damaged.TOKEN/     what was found there and was not what its manifest says
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from drift import stop
from drift.console import say
from drift.errors import UserError, writable
from drift.files import beside, discard, put
from drift.records import digest
from drift.store import manifest
from drift.store.environment import environment, peak_gib
from drift.store.lease import lease

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
    """`dir`: shared by all members of a sweep. `strict`: refuse a stage made by other code or library versions. `verify`: read
    large files too before they are used again. `lease_seconds`: a lease that has not moved for so long is taken over."""

    dir: str
    strict: bool
    verify: bool
    lease_seconds: float
    log: list[Stage] = field(default_factory=list, init=False)  # every stage asked for, in order
    found: Counter[str] = field(default_factory=Counter, init=False)  # of these, by name, what was found and not said yet

    def run(self, name: str, work: Work, *, version: int, settings: dict[str, Any], inputs: dict[str, str]) -> Stage:
        """Returns the finished stage, computing it unless it is there. `work` may find its own earlier progress."""
        parts = {"format": manifest.FORMAT, "stage": name, "version": version, "settings": settings, "inputs": inputs}
        final = Path(self.dir).resolve() / name / digest(parts)[:24]
        stop.check()
        with writable(Path(self.dir), "store.dir"):
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
            self.found[name] += 1
        self.log.append(stage)
        return stage

    def say_found(self) -> None:
        """What was found since this was said last, in a line: so a run that goes on says from where."""
        if self.found:
            print("  found in the store: " + ", ".join(f"{count} {name}" for name, count in self.found.items()), flush=True)
            self.found.clear()

    def _finished(self, final: Path) -> Stage | None:
        """The stage if it is there and undamaged."""
        try:
            found = manifest.read(final, verify=self.verify)
        except manifest.Damaged:
            return None
        if found is None:
            return None
        made, here = found["environment"], environment()
        other = [f"{part} {made[part]} -> {here[part]}" for part in here if made[part] != here[part]]
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
        """Under the lease of this token. If that gets lost and somebody else is faster, theirs is as good."""
        self._set_damaged_aside(final)
        progress, output = _progress(final, token), final.with_name(f"{final.name}.output.{token}")
        try:
            with writable(Path(self.dir), "store.dir"):  # whether the disk is full can be seen until something is removed
                output.mkdir()
                started = time.monotonic()
                facts = work(progress, output)
                seconds = round(time.monotonic() - started, 3)
                kept = {"facts": facts, "seconds": seconds, "peak_gib": peak_gib()}
                manifest.write(output, parts | kept | {"environment": environment()})
                self._put(output, final)
        except BaseException as error:
            lost = isinstance(error, Exception) and not output.is_dir()
            discard(output)
            with suppress(OSError):  # nothing to go on from
                progress.rmdir()
            if lost and (theirs := self._finished(final)) is not None:
                return theirs
            raise
        _discard_leftovers(final, [path for path in final.parent.glob(f"{final.name}.*") if path.name != f"{final.name}.lease"])
        return Stage(name=name, path=final, hit=False, **kept)

    def _put(self, output: Path, final: Path) -> None:
        try:
            put(output, final)
        except OSError:  # something is there
            if self._finished(final) is not None:
                discard(output)
                return
            if not final.exists():
                raise
            self._set_damaged_aside(final)
            put(output, final)

    def _set_damaged_aside(self, final: Path) -> None:
        """What is in the place of a stage that is not finished: kept, and out of the way."""
        try:
            manifest.read(final, verify=self.verify)
        except manifest.Damaged as damaged:
            aside = beside(final, "damaged")
            os.rename(final, aside)
            say(f"  {final} is damaged ({damaged}): it is computed again, and what was there is kept in {aside.name}")


def _progress(final: Path, token: str) -> Path:
    """This process's own, with what the last holder of the lease left. One that lives (it was stopped, say, and lost its lease)
    finds its folder gone."""
    mine = final.with_name(f"{final.name}.progress.{token}")
    left = sorted(final.parent.glob(f"{final.name}.progress.*"), key=_modified, reverse=True)
    for earlier in left:
        with suppress(OSError):
            os.rename(earlier, mine)
            return mine
    mine.mkdir()
    return mine


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@cache
def tidy(kind: Path) -> None:
    """Removes what processes that were killed at the very end left beside finished stages; once a process."""
    for path in sorted(kind.glob("*.*")):
        final = kind / path.name.partition(".")[0]
        if (final / manifest.MANIFEST).is_file():
            _discard_leftovers(final, [path])


def _discard_leftovers(final: Path, beside_it: list[Path]) -> None:
    """Of a finished stage nobody needs them; a process that computes it all the same will find it finished."""
    for path in beside_it:
        if not path.name.startswith(f"{final.name}.damaged."):
            discard(path)


@cache
def warn_once(message: str) -> None:
    print(f"Note: {message}", flush=True)
