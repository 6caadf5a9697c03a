"""A run on several devices of this machine: the job starts one rank for each through torchrun, and waits.

The ranks live as long as the job: their standard input is a pipe from it, and where that ends, they end (drift/rank.py). Signals to
the job are handed on to them. What they print on the standard output is rank 0's console; everything else is in ranks.log."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from drift import stop
from drift.engine import failure
from drift.engine.ranks import no_rank
from drift.errors import UserError
from drift.records import write_json
from drift.report import html
from drift.report.state import RUN

LOOPBACK = "lo"
FEW = 8  # processes that any CPU may try out
END_SECONDS = 10  # torchrun kills ranks that have not ended so long after a failure
HELP_SECONDS = 20.0  # and if it does not, the job does
POLL_SECONDS = 0.2


def ranks(folder: Path, devices: int) -> None:
    """Runs `drift.rank` in the run folder on every device. Raises UserError with the words of the rank that failed first, and
    Stopped after a signal."""
    refuse_missing(devices)
    with open(folder / failure.LOG, "a", encoding="utf-8") as log:
        torchrun = subprocess.Popen(
            command(folder, devices), env=environment(devices), stdin=subprocess.PIPE, stderr=log, start_new_session=True
        )
        try:
            wait(torchrun, folder)
        except BaseException:  # a signal, or what a launcher makes of one
            hand_on(torchrun, folder, stop.signal_number() or signal.SIGTERM)
            wait(torchrun, folder)
            raise
    conclude(folder, torchrun.returncode)


def refuse_missing(devices: int) -> None:
    """Refuses more devices than there are GPUs, before anything is loaded. On a CPU they are processes, a few for trying it out."""
    import torch

    if torch.cuda.is_available():
        if devices > (found := torch.cuda.device_count()):
            raise UserError(f"devices={devices}: there are {found} GPUs (see CUDA_VISIBLE_DEVICES). Set devices={found}.")
    elif devices > (most := max(FEW, len(os.sched_getaffinity(0)))):
        raise UserError(f"devices={devices}: without a GPU these are processes on the CPU. Set devices={most} at most.")


def command(folder: Path, devices: int) -> list[str]:
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    start = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={devices}", *meeting]
    return [*start, "-m", "drift.rank", str(folder), "--of-job"]


def environment(devices: int) -> dict[str, str]:
    """That of the ranks: this one without leaks. The threads of the CPU are shared out, unless OMP_NUM_THREADS says how many each
    process has. What was added to `sys.path` is handed on, so that a user's own parts are found; not what a Python finds by itself,
    or an engine in another environment (sampler.python) would take its libraries from here."""
    kept = no_rank(os.environ)
    threads = max(1, len(os.sched_getaffinity(0)) // devices)
    if LOOPBACK in (name for _, name in socket.if_nameindex()):
        kept |= {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    own = own_path()
    added = [os.path.abspath(place) for place in sys.path if place not in own]
    given = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(END_SECONDS), "PYTHONPATH": os.pathsep.join(added)}
    return {"OMP_NUM_THREADS": str(threads)} | kept | given


def own_path() -> list[str]:
    """The `sys.path` of this interpreter when nobody adds to it."""
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    show = [sys.executable, "-c", "import sys; print(*sys.path, sep='\\n')"]
    return subprocess.run(show, env=plain, capture_output=True, text=True, check=True).stdout.split("\n")


def wait(torchrun: subprocess.Popen[Any], folder: Path) -> None:
    """Until all ranks have ended. Cuts their pipe if torchrun does not end those that a failure has left behind."""
    failed = None
    while torchrun.poll() is None:
        time.sleep(POLL_SECONDS)
        if failed is None and failure.first(folder, patience=0) is not None:
            failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > HELP_SECONDS and torchrun.stdin:
            torchrun.stdin.close()


def hand_on(torchrun: subprocess.Popen[Any], folder: Path, number: int) -> None:
    """A signal to all ranks, rank 0 first, whose journal names it; to torchrun, if they have not begun."""
    begun = [one for one in failure.fates(folder) if one.ended is None]
    for one in begun:
        with suppress(ProcessLookupError):
            os.kill(one.process["pid"], number)
    if not begun:
        torchrun.terminate()


def conclude(folder: Path, code: int) -> None:
    """Raises what ended the ranks; completes run.json if rank 0 could not."""
    known = {one.rank: one for one in failure.fates(folder)}
    rank_0 = known.get(0)
    if code == 0 and rank_0 and rank_0.code == 0:
        return
    if rank_0 and rank_0.code and rank_0.words is None:
        raise stop.Stopped(rank_0.code)
    if rank_0 and rank_0.words and not rank_0.lost:
        raise UserError(rank_0.words)
    words = failure.first(folder, patience=0) or failure.of_lost(folder)
    words = words or f"The ranks ended without a message. See the end of {folder / failure.LOG}."
    mark_failed(folder, words)
    raise UserError(words)


def mark_failed(folder: Path, words: str) -> None:
    """Writes into a run.json that still says running that the run has failed, and builds the report again."""
    file = folder / RUN
    if file.is_file() and (found := json.loads(file.read_text(encoding="utf-8")))["status"] == "running":
        write_json(file, found | {"status": "failed", "error": f"UserError: {words}"})
        html.run_report(folder)
