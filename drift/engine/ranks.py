"""The ranks of a run on several devices: rank 0 runs the loop, and the others wait for the work that it hands them.

    results = share(function, items)          every rank takes some of the items
    result = everywhere(function, argument)   every rank runs the same, as training on several devices needs it

With one rank these are plain calls. Functions and arguments are sent from rank 0's memory to the others', so a function must be one
that can be imported, and its arguments plain data or parts of the config. An error on rank 0 is the end of the run: the others may
be in the middle of something, so nothing more is sent to them. What ranks say to each other in training is Lightning's
(drift/train/fit.py).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from drift.errors import UserError

Result = TypeVar("Result")

PATIENCE = timedelta(days=30)  # the other ranks wait while rank 0 works alone
MEETING = timedelta(hours=1)  # for all ranks to come together, at the beginning and in training
OF_RANKS = {  # environment variables; the last is Lightning's
    "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED",
}  # fmt: skip
OF_LAUNCHERS = ("TORCHELASTIC_", "TORCH_ELASTIC_", "SLURM_", "PMI_", "OMPI_")

_messages: Any = None  # the process group of what is sent here, always over gloo; None: the default one


class Lost(Exception):
    """Another rank has ended, so that this one can't go on."""


def world() -> int:
    """The number of ranks."""
    return _distributed().get_world_size() if _started() else 1


def rank() -> int:
    """The number of this rank, from 0."""
    return _distributed().get_rank() if _started() else 0


def join(local_rank: int) -> None:
    """Meets the other ranks, as the environment says where (MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE). `local_rank`: the number
    of this process on its machine, where there are GPUs: each rank takes one."""
    import torch

    global _messages
    if on_gpu := torch.cuda.is_available():
        torch.cuda.set_device(gpu_of(local_rank, torch.cuda.device_count()))
    try:
        with _contact():
            _distributed().init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=MEETING)
            _messages = _distributed().new_group(backend="gloo", timeout=PATIENCE)
    except Lost as error:
        if not isinstance(error.__cause__, _distributed().DistNetworkError):
            raise
        raise UserError(
            f"The ranks can't meet at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}. Expected a machine that all of them "
            "can reach, that of rank 0, and a port that is free there: export MASTER_ADDR=HOST MASTER_PORT=PORT for all ranks. "
            f"({error})"
        ) from error


def no_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what a launcher says to a rank: for a process that is none, or that gets a rank of its own."""
    return {name: value for name, value in environment.items() if name not in OF_RANKS and not name.startswith(OF_LAUNCHERS)}


def gpu_of(local_rank: int, visible: int) -> int:
    """The number of a rank's GPU among those that it sees: one of those of the machine, or the only one that a scheduler shows it
    (srun --gpus-per-task=1)."""
    if visible > 1 and local_rank >= visible:
        raise UserError(
            f"This machine has {visible} GPUs for the ranks (see CUDA_VISIBLE_DEVICES), and this is its rank {local_rank + 1}. "
            "Start one for each GPU (docs/devices.md)."
        )
    return local_rank if visible > 1 else 0


def everywhere(function: Callable[..., Result], *arguments: Any, here: Mapping[str, Any] | None = None) -> Result:
    """What `function` returns on rank 0, after every rank has run it. `here`: keyword arguments for rank 0 alone, which can't be
    sent (callbacks)."""
    _send((_call, function, arguments))
    return function(*arguments, **(here or {}))


def share(function: Callable[..., Result], items: Sequence[Any], here: Mapping[str, Any] | None = None) -> list[Result]:
    """What `function` returns for each item, in order; item i is computed by rank i modulo their number. `here`: as above."""
    _send((_share, function, items))
    return _share(function, items, here) or []


def serve() -> None:
    """What every rank but 0 does: it runs what rank 0 sends, until rank 0 calls `dismiss`."""
    while (task := _receive()) is not None:
        run, function, given = task
        run(function, given)


def dismiss() -> None:
    """Ends `serve` on the other ranks."""
    _send(None)


def _call(function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    function(*arguments)


def _share(function: Callable[..., Result], items: Sequence[Any], here: Mapping[str, Any] | None = None) -> list[Result] | None:
    """This rank's part; the results of all ranks on rank 0, None on the others."""
    count = world()
    mine = [function(item, **(here or {})) for item in items[rank() :: count]]
    if count == 1:
        return mine
    parts: list[Any] | None = [None] * count if rank() == 0 else None
    with _contact():
        _distributed().gather_object(mine, parts, dst=0, group=_messages)
    if parts is None:
        return None
    return [parts[i % count][i // count] for i in range(len(items))]


def _send(task: Any) -> None:
    if world() > 1:
        with _contact():
            _distributed().broadcast_object_list([task], src=0, group=_messages)


def _receive() -> Any:
    task = [None]
    with _contact():
        _distributed().broadcast_object_list(task, src=0, group=_messages)
    return task[0]


@contextmanager
def _contact() -> Iterator[None]:
    """Turns the errors of torch about a connection that is gone into `Lost`."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(str(error)) from error


def _started() -> bool:
    import sys

    # without torch in memory there is no process group, and asking should not take the seconds of its import
    return "torch.distributed" in sys.modules and _distributed().is_available() and _distributed().is_initialized()


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed
