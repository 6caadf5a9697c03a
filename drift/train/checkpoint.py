"""The checkpoints of an unfinished training: written atomically, and used only by the stage that wrote them.

A checkpoint ends with the sha256 of the bytes before it, because torch would load a damaged file without an error.
"""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from drift.console import say
from drift.files import NEW, sync

DIGEST = hashlib.sha256().digest_size  # bytes


class Checkpoints(TorchCheckpointIO):
    """Saves and loads Lightning's checkpoints. `stage`: the key that every checkpoint contains."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.checkpoint: dict[str, Any] | None = None  # read and verified, until Lightning loads it
        self.lost_folder = False

    def steps_in(self, path: Path) -> int:
        """The number of steps that this checkpoint has done; 0, with a message, if it is damaged or another stage's."""
        if not path.is_file():
            return 0
        checkpoint: Any = None
        if _is_intact(path):
            try:
                checkpoint = super().load_checkpoint(path, weights_only=True)
            except Exception:  # torch and Lightning have many exceptions for a file that is not a checkpoint
                checkpoint = None
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("history"), list):
            say(f"  {path} is damaged and is not used: training begins at step 1.")
            return 0
        if checkpoint.get("stage") != self.stage:
            say(f"  {path} was made by another training ({checkpoint.get('stage')}) and is not used: this one begins at step 1.")
            return 0
        self.checkpoint = checkpoint
        return len(checkpoint["history"])

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The checkpoint that `steps_in` has read, once."""
        checkpoint, self.checkpoint = self.checkpoint, None
        assert checkpoint is not None, f"{path} was not read by steps_in"
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Written to the disk under another name, then renamed. Saves nothing if another process has taken the folder over."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with open(os.open(temporary, NEW, 0o666), "wb") as file:
                torch.save(checkpoint | {"stage": self.stage}, file)
                file.flush()
                with open(temporary, "rb") as written:
                    file.write(hashlib.file_digest(written, "sha256").digest())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync(path.parent)
        except FileNotFoundError:
            if not self.lost_folder:
                say(f"  Another process has taken over {path.parent}: this one saves no more checkpoints.")
            self.lost_folder = True
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _is_intact(path: Path) -> bool:
    """Whether the file ends with the sha256 of the bytes before it."""
    left, hashed = path.stat().st_size - DIGEST, hashlib.sha256()
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(left, 2**20))):
            hashed.update(block)
            left -= len(block)
        return left == 0 and file.read() == hashed.digest()
