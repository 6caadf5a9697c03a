"""One rank of a run on several devices: `python -m drift.rank RUN_DIR`, started by torchrun or srun, or by itself as the only one.

RUN_DIR has the run's config.yaml: `drift run devices=N` writes it and starts the ranks of one machine. For several machines see
docs/devices.md. Rank 0 runs the loop, with console, journal, report and store; the others run what it hands them (engine/ranks.py)
and print nothing but why they failed.
"""

import argparse
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from drift import quiet, stop
from drift.console import visible
from drift.engine import failure, ranks
from drift.errors import UserError
from drift.folders import kept

END_SECONDS = 5.0  # for a rank to end by itself when its job is gone
FIRST_PORT, PORTS = 20000, 20000  # of the meeting place of a SLURM job's ranks


@dataclass(frozen=True, kw_only=True)
class Place:
    """A process among the ranks. `local`: its number on its machine, which is also that of its GPU. `meeting`: the environment
    variables that say where the ranks meet."""

    rank: int
    world: int
    local: int
    meeting: Mapping[str, str]


def place_of(environment: Mapping[str, str]) -> Place:
    """As torchrun or srun says it; without them there is one rank."""
    if "RANK" in environment:
        need(environment, "torchrun", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        rank, world, local = (number(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Place(rank=rank, world=world, local=local, meeting={})
    if "SLURM_PROCID" in environment:
        need(environment, "srun", "SLURM_NTASKS", "SLURM_LOCALID")
        rank, world, local = (number(environment, name) for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
        meeting = {"RANK": str(rank), "WORLD_SIZE": str(world)}
        if world > 1:
            if "SLURM_STEP_ID" not in environment:
                raise UserError(
                    f"This is the script of a SLURM job of {world} tasks, and only one of them would start. Start all of them: "
                    "srun python -m drift.rank RUN_DIR"
                )
            port = FIRST_PORT + int(environment.get("SLURM_JOB_ID", "0")) % PORTS
            meeting |= {
                "MASTER_ADDR": environment.get("MASTER_ADDR") or first_node(environment),
                "MASTER_PORT": environment.get("MASTER_PORT") or str(port),
            }
        return Place(rank=rank, world=world, local=local, meeting=meeting)
    return Place(rank=0, world=1, local=0, meeting={})


def need(environment: Mapping[str, str], launcher: str, *names: str) -> None:
    if missing := [name for name in names if name not in environment]:
        raise UserError(
            f"The environment of this rank lacks {', '.join(missing)}, which {launcher} sets. Start all ranks with {launcher} "
            "(docs/devices.md), or set them."
        )


def number(environment: Mapping[str, str], name: str) -> int:
    if not environment[name].isdecimal():
        raise UserError(f"{name}={environment[name]} in the environment: expected a whole number.")
    return int(environment[name])


def first_node(environment: Mapping[str, str]) -> str:
    """The machine with rank 0: the first name in a list like gpu[03-05,9],old1; where names can't be resolved, the address that
    srun was started from."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    if found := re.match(r"([^,\[]+)(?:\[(\d+))?", nodes):
        name = found[1] + (found[2] or "")
        try:
            socket.getaddrinfo(name, None)
            return name
        except OSError:
            pass
    if address := environment.get("SLURM_LAUNCH_NODE_IPADDR"):
        return address
    raise UserError(
        f"Where rank 0 runs can't be told from SLURM_NODELIST={nodes or '(not set)'}. Say it: export MASTER_ADDR=HOST, a name or "
        "an address that all machines of the job can reach."
    )


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m drift.rank", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", metavar="RUN_DIR", type=Path)
    parser.add_argument("--of-job", action="store_true", help=argparse.SUPPRESS)  # it shows errors, and ends with its pipe
    given = parser.parse_args(arguments)
    folder: Path = given.folder.absolute()
    stop.install()
    if given.of_job:
        threading.Thread(target=end_with_the_job, daemon=True).start()
    error: BaseException | None = None
    number = 0
    try:
        place = place_of(os.environ)
        number = place.rank
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder} has no config.yaml. Expected a run folder, or one made as docs/devices.md says.")
        with ExitStack() as held:
            if number == 0 and not given.of_job:
                held.enter_context(kept(folder))
            take_part(folder, place)
    except BaseException as caught:
        error = caught
    found = failure.end(folder, number, error)
    if found.words and (not found.lost if number else not given.of_job):  # what rank 0 says of a loss is all that is known
        print(visible(f"\n{found.words}"), file=sys.stderr, flush=True)
    return found.code or 0


def take_part(folder: Path, place: Place) -> None:
    """Runs the loop, or what rank 0 hands out."""
    if place.rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until this process ends)
        quiet.libraries(folder / failure.LOG, None)
    else:
        quiet.libraries(folder / "libraries.log", sys.stdout)
        failure.begin(folder, 0)
    if place.world > 1:
        os.environ.update(place.meeting)
        ranks.join(place.local)
    if place.rank:
        failure.begin(folder, place.rank)  # rank 0 has cleared the folder by now
        ranks.serve()
        return
    lead(folder)
    ranks.dismiss()


def lead(folder: Path) -> None:
    """What rank 0 does."""
    from omegaconf import DictConfig, OmegaConf

    from drift import job
    from drift.config import build
    from drift.masking import HIDDEN

    file = folder / "config.yaml"
    text = file.read_text(encoding="utf-8")
    if HIDDEN in text:
        raise UserError(f"{file} lacks a secret that was on the command line ({HIDDEN}). Give it by an environment variable.")
    config = OmegaConf.create(text)
    assert isinstance(config, DictConfig)
    config.devices = ranks.world()  # those that there are: a run may go on with others than it began with
    run = build(config)
    job.carry_out(run, folder, job.told_in(folder, run))


def end_with_the_job() -> None:
    """Ends this process when the pipe from its job ends: by a signal, and if that does not do it, at once."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no destructor waits for ranks that have ended
