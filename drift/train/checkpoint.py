"""The checkpoint of a training that goes on: there whole or not at all, and of its own stage or not used."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from drift.report.console import say


class Checkpoints(TorchCheckpointIO):
    """What Lightning saves and loads through. `stage`: the key that every checkpoint carries."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.found: dict[str, Any] | None = None  # read and found right, until Lightning takes it

    def steps_in(self, path: Path) -> int:
        """The steps that the checkpoint there has done; 0 if there is none or it is another stage's, which is said."""
        if not path.is_file():
            return 0
        found: dict[str, Any] = super().load_checkpoint(path, weights_only=True)
        if found.get("stage") != self.stage:
            say(f"  {path} was made by another training ({found.get('stage')}) and is not used: this one begins at step 1.")
            return 0
        self.found = found
        return len(found["history"])

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The one that `steps_in` has read, once."""
        found, self.found = self.found, None
        assert found is not None, f"nobody asked for {path}"
        return found

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """By a rename: Lightning moves them into place from another file system, by a copy."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint | {"stage": self.stage}, f"{path}.part")
        os.replace(f"{path}.part", path)
