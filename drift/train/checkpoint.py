"""The checkpoint of a training that goes on: there whole or not at all, and of its own stage or not used.

Its last bytes are the sha256 of those before: torch reads a file with a flipped byte without a word.
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
    """What Lightning saves and loads through. `stage`: the key that every checkpoint carries."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.found: dict[str, Any] | None = None  # read and found right, until Lightning takes it
        self.lost = False

    def steps_in(self, path: Path) -> int:
        """The steps that the checkpoint there has done; 0 if there is none, or it is damaged or another stage's, which is said."""
        if not path.is_file():
            return 0
        found: Any = None
        if _whole(path):
            try:
                found = super().load_checkpoint(path, weights_only=True)
            except Exception:  # torch and Lightning have many for what is no checkpoint
                found = None
        if not isinstance(found, dict) or not isinstance(found.get("history"), list):
            say(f"  {path} is damaged and is not used: training begins at step 1.")
            return 0
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
        """By a rename, once it is on the disk. Nothing is saved where the folder is gone: another process has taken it over."""
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
            if not self.lost:
                say(f"  {path.parent} is another process's now: this one saves no more checkpoints.")
            self.lost = True
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _whole(path: Path) -> bool:
    """Whether the file's end is the sha256 of what stands before it."""
    left, hashed = path.stat().st_size - DIGEST, hashlib.sha256()
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(left, 2**20))):
            hashed.update(block)
            left -= len(block)
        return left == 0 and file.read() == hashed.digest()
