"""Outputs of the frozen layers below an adapter: the reference pass saves them batch by batch, and training starts from them."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from drift.model.policy import without_adapter

FILE_BYTES = 64 * 2**20  # the least size of a file, except the last one


@contextmanager
def save_outputs(model: Any, layers: int, folder: Path | None, first: int = 0) -> Iterator[None]:
    """Saves the outputs `(T, H)` of the lowest `layers` layers in every forward pass, numbered from `first` on, several to a
    file. Several ranks may save to the same folder."""
    if not layers:
        yield
        return
    assert folder is not None
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    numbers, unsaved = count(first), {}

    def write() -> None:
        save_file({str(number): hidden for number, hidden in unsaved.items()}, folder / f"{min(unsaved):06d}.safetensors")
        unsaved.clear()

    def keep(_: Any, inputs: Any) -> None:
        unsaved[next(numbers)] = inputs[0][0].detach().cpu().clone()
        if sum(hidden.nbytes for hidden in unsaved.values()) >= FILE_BYTES:
            write()

    hook = without_adapter(model).base_model.layers[layers].register_forward_pre_hook(keep)
    try:
        yield
        if unsaved:
            write()
    finally:
        hook.remove()


def load_output(folder: Path, number: int) -> Any:
    """What `save_outputs` saved of a batch, `(T, H)`. A file is named after its first batch."""
    from safetensors import safe_open

    file = max(name for name in folder.glob("*.safetensors") if int(name.stem) <= number)
    with safe_open(file, "pt") as opened:
        return opened.get_tensor(str(number))
