"""Runs whose ranks are forks of a process that has imported what is slow to import: `python rank_forks.py < runs.json`.

stdin: a list of runs, one after another, each `{"folder": RUN_DIR, "config": its config.yaml, "ranks": their number}`. stdout: for
each `{"codes": exit code of each rank, "seconds", "printed": what each rank printed, "state": its run.json}`. The ranks are started
as torchrun on several machines would start them, but nobody ends those that a failed one leaves behind. `Troubled` is a sampler
that gets into trouble on one of them.
"""

import json
import os
import shutil
import signal
import socket
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from killer import import_slow_modules

from drift.engine import ranks
from drift.errors import UserError
from drift.sampler.transformers import Transformers

SECONDS = 60  # a rank that hangs is ended, and its exit code shows it


@dataclass(frozen=True, kw_only=True)
class Troubled:
    """`inner`: the real sampler. `trouble`: what happens on rank `on` at its second group."""

    inner: Transformers
    trouble: str
    on: int

    @property
    def max_new_tokens(self):
        return self.inner.max_new_tokens

    @property
    def max_prompt_tokens(self):
        return self.inner.max_prompt_tokens

    @property
    def group_size(self):
        return self.inner.group_size

    def key(self) -> Any:
        return self.inner.key()

    @contextmanager
    def open(self, policy):
        groups = 0

        def troubled(prompts, noise, tick):
            nonlocal groups
            groups += 1
            if groups == 2 and ranks.rank() == self.on:
                get_into(self.trouble)
            return generate(prompts, noise, tick)

        with self.inner.open(policy) as generate:
            yield troubled


def get_into(trouble: str) -> None:
    import torch

    match trouble:
        case "killed" | "gone":
            os.kill(os.getpid(), signal.SIGKILL)
        case "refused":
            raise UserError("The prompts are not what this sampler reads.")
        case "full":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def main() -> None:
    runs = json.load(sys.stdin)
    import_slow_modules()
    json.dump([outcome(Path(run["folder"]), run["config"], run["ranks"]) for run in runs], sys.stdout)


def outcome(folder: Path, config: str, world: int) -> dict[str, Any]:
    shutil.copyfile(config, folder / "config.yaml")
    started, port = time.monotonic(), free_port()
    pids = [fork(folder, rank, world, port) for rank in range(world)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    printed = [Path(f"{folder}.{rank}.txt").read_text() for rank in range(world)]
    state = json.loads((folder / "run.json").read_text())
    return {"codes": codes, "seconds": time.monotonic() - started, "printed": printed, "state": state}


def fork(folder: Path, rank: int, world: int, port: int) -> int:
    if pid := os.fork():
        return pid
    log = os.open(f"{folder}.{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.alarm(SECONDS)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 99
    try:
        from drift import rank as entry

        code = entry.main([str(folder)])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    main()
