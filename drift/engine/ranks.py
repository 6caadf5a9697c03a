"""The ranks of a run on several devices: rank 0 runs the loop, and the others wait for the work that it hands them.

    results = share(function, items)          every rank takes some of the items
    result = everywhere(function, argument)   every rank runs the same, as training on several devices needs it

With one rank these are plain calls. Functions and arguments are sent as Python objects, from memory to memory, so a
function must be one that can be imported. What ranks say to each other in training is Lightning's (drift/train/fit.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Given, Result = TypeVar("Given"), TypeVar("Result")


def world() -> int:
    """The number of ranks."""
    return _distributed().get_world_size() if _started() else 1


def rank() -> int:
    """The number of this rank, from 0."""
    return _distributed().get_rank() if _started() else 0


def everywhere(function: Callable[..., Result], *arguments: Any, here: Mapping[str, Any] | None = None) -> Result:
    """What `function` returns on rank 0, after every rank has run it. `here`: keyword arguments for rank 0 alone, which can't be
    sent (callbacks)."""
    _send((_call, function, arguments))
    return function(*arguments, **(here or {}))


def share(function: Callable[[Given], Result], items: Sequence[Given]) -> list[Result]:
    """What `function` returns for each item, in order; item i is computed by rank i modulo the number of ranks."""
    _send((_share, function, items))
    return _share(function, items) or []


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


def _share(function: Callable[[Given], Result], items: Sequence[Given]) -> list[Result] | None:
    """This rank's part; the results of all ranks on rank 0, None on the others."""
    count = world()
    mine = [function(item) for item in items[rank() :: count]]
    if count == 1:
        return mine
    parts: list[Any] | None = [None] * count if rank() == 0 else None
    _distributed().gather_object(mine, parts, dst=0, group=None)
    if parts is None:
        return None
    return [parts[i % count][i // count] for i in range(len(items))]


def _send(task: Any) -> None:
    if world() > 1:
        _distributed().broadcast_object_list([task], src=0)


def _receive() -> Any:
    task = [None]
    _distributed().broadcast_object_list(task, src=0)
    return task[0]


def _started() -> bool:
    import sys

    # without torch in memory there is no process group, and asking should not take the seconds of its import
    return "torch.distributed" in sys.modules and _distributed().is_available() and _distributed().is_initialized()


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed
