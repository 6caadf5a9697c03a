"""Outputs of the layers below an adapter, kept from the reference pass batch by batch, many to a file: training starts from
them."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from drift.model.policy import without_adapter

FILE_BYTES = 64 * 2**20  # of one file at least, but for the last


@contextmanager
def kept(model: Any, layers: int, folder: Path | None) -> Iterator[None]:
    """Keeps what goes into layer number `layers` in every forward pass, `(T, H)`: 0, 1, … in order, many to a file."""
    if not layers:
        yield
        return
    assert folder is not None
    from safetensors.torch import save_file

    folder.mkdir()
    numbers, waiting = count(), {}

    def write() -> None:
        save_file({str(number): hidden for number, hidden in waiting.items()}, folder / f"{min(waiting):06d}.safetensors")
        waiting.clear()

    def keep(_: Any, inputs: Any) -> None:
        waiting[next(numbers)] = inputs[0][0].detach().cpu().clone()
        if sum(hidden.nbytes for hidden in waiting.values()) >= FILE_BYTES:
            write()

    hook = without_adapter(model).base_model.layers[layers].register_forward_pre_hook(keep)
    try:
        yield
        if waiting:
            write()
    finally:
        hook.remove()


def load(folder: Path, number: int) -> Any:
    """What `kept` wrote for a batch, `(T, H)`: in the last file that begins with it or before it."""
    from safetensors import safe_open

    file = max(name for name in folder.glob("*.safetensors") if int(name.stem) <= number)
    with safe_open(file, "pt") as opened:
        return opened.get_tensor(str(number))
