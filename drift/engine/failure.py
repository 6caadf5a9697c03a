"""What became of the ranks of a run: which one failed first, and its last words.

    RUN_DIR/ranks/N.json    written by rank N when it begins, and when it ends: see `Fate`
    RUN_DIR/ranks/N.crash   what Python writes of a crash inside a library
    RUN_DIR/ranks.log       whatever else a rank or torchrun says

A rank that fails takes the others down: they lose the connection to it, or torchrun stops them. So the failure to report is the one
that has another reason, or that of the rank which ended without a word: the system killed it.
"""

import faulthandler
import json
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drift.engine.ranks import Lost, world
from drift.errors import UserError, is_out_of_memory
from drift.records import write_json
from drift.stop import Stopped
from drift.store.lease import holder_of_this_process, may_live

FOLDER, LOG = "ranks", "ranks.log"
GONE = ("gloo", "connection closed by peer", "connection reset by peer", "nccl")  # in what libraries say of a lost connection
POLL_SECONDS = 0.1
LAST_WORDS_SECONDS = 3.0  # until what another machine has written is seen here


@dataclass(frozen=True, kw_only=True)
class Fate:
    """`process`: as in a lease. `ended`: the Unix time of its end, None while it runs. `code`: its exit code. `words`: what a user
    should read, if it failed. `lost`: it failed because another rank had ended."""

    rank: int
    process: dict[str, Any]
    ended: float | None = None
    code: int | None = None
    words: str | None = None
    lost: bool = False


def begin(folder: Path, rank: int) -> None:
    """Notes that this process is a rank of the run."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / f"{rank}.json", asdict(Fate(rank=rank, process=holder_of_this_process())))
    faulthandler.enable(open(place / f"{rank}.crash", "w", encoding="utf-8"))  # noqa: SIM115 (open until this process ends)


def end(folder: Path, rank: int, error: BaseException | None) -> Fate:
    """Notes how this rank ended."""
    failed = error is not None and not isinstance(error, (Stopped, KeyboardInterrupt))
    code = 0 if error is None else 1 if failed else int(getattr(error, "code", None) or 130)
    words, lost = (words_of(error, rank, folder), was_lost(error)) if failed and error else (None, False)
    process = holder_of_this_process()
    found = Fate(rank=rank, process=process, ended=time.time(), code=code, words=words, lost=lost)
    if (folder / "config.yaml").is_file():
        with suppress(OSError):  # on a full disk the error itself is more important
            write_json(folder / FOLDER / f"{rank}.json", asdict(found))
    return found


def words_of(error: BaseException, rank: int, folder: Path) -> str:
    """An error as a user should read it; the traceback of one that is not the user's goes to ranks.log."""
    name = f"rank {rank}: " if rank else ""
    if isinstance(error, UserError):
        return f"{name}{error}"
    with suppress(OSError), open(folder / LOG, "a", encoding="utf-8") as log:
        log.write(f"rank {rank}:\n{''.join(traceback.format_exception(error))}")
    if is_out_of_memory(error):
        return (
            f"rank {rank}: out of memory. Make the batches smaller (train.tokens_per_batch, sampler.tokens_per_batch), and run the "
            f"same command again: finished stages are kept. ({type(error).__name__}: {error})"
        )
    return f"rank {rank}: {type(error).__name__}: {error} (the traceback is in {folder / LOG})"


def was_lost(error: BaseException) -> bool:
    """Whether an error says no more than that another rank has ended."""
    said = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in GONE)
    return isinstance(error, Lost) or (said and not is_out_of_memory(error))


def of_another(folder: Path, caught: BaseException) -> UserError | None:
    """On rank 0: the failure of another rank that `caught` is the consequence of, if it is one."""
    if world() == 1 or isinstance(caught, UserError):
        return None
    words = first(folder, patience=0 if isinstance(caught, Stopped) else LAST_WORDS_SECONDS)
    if words is None and isinstance(caught, Lost):
        words = f"A rank on another machine ended and left no message: its own log may say why. ({caught})"
    return UserError(words) if words else None


def first(folder: Path, patience: float) -> str | None:
    """The last words of the rank that failed first, or what is known of one that was killed; None: no rank has failed. `patience`:
    how many seconds to wait for a rank whose end is not known yet."""
    until = time.monotonic() + patience
    while (found := _first(fates(folder), folder)) is None and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return found


def of_lost(folder: Path) -> str | None:
    """What the rank said that lost the others first. Where no rank has another reason, the connection itself did not work: the
    library's own words say why."""
    said = sorted((one for one in fates(folder) if one.words), key=lambda one: one.ended or 0.0)
    return said[0].words if said else None


def _first(known: list[Fate], folder: Path) -> str | None:
    said = sorted((one for one in known if one.words and not one.lost), key=lambda one: one.ended or 0.0)
    if said:
        return said[0].words
    for one in known:
        if one.ended is None and not may_live(one.process, time.time()):
            return _killed(one, folder)
    return None


def _killed(one: Fate, folder: Path) -> str:
    """About a rank that ended without a word. No other signal than SIGKILL leaves nothing behind."""
    who = f"rank {one.rank} (process {one.process['pid']} on {one.process['host']})"
    crash = folder / FOLDER / f"{one.rank}.crash"
    with suppress(OSError):
        if lines := crash.read_text(encoding="utf-8", errors="replace").splitlines():
            return f"{who} crashed: {lines[0].removeprefix('Fatal Python error: ')}. Where it was is written in {crash}."
    return (
        f"{who} was killed (SIGKILL) and left no message. The usual cause is that the machine, the container or the cluster job is "
        "out of memory: use fewer devices of one machine, or smaller batches (train.tokens_per_batch, sampler.tokens_per_batch), "
        "and run the same command again: finished stages are kept."
    )


def fates(folder: Path) -> list[Fate]:
    """What is known of every rank that has begun."""
    found = []
    for file in (folder / FOLDER).glob("*.json"):
        with suppress(OSError, ValueError, TypeError):  # it is being replaced
            found.append(Fate(**json.loads(file.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda one: one.rank)
