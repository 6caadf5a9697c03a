"""Any Hugging Face causal model with a chat template: a local directory, or a hub id that is already in the cache.

A hub is never contacted: a missing id is refused with the command that fetches it.
"""

from dataclasses import dataclass
from pathlib import Path

from drift.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """`path`: directory or hub id. `revision`: commit of the hub id (null: the cached main branch)."""

    path: str
    revision: str | None

    def check(self) -> None:
        self.directory()

    def directory(self) -> Path:
        """The directory with config, safetensors weights and tokenizer."""
        local = Path(self.path).expanduser()
        if local.is_dir():
            return _complete(local)
        if self.path.count("/") != 1 or self.path.startswith((".", "/", "~")):
            raise UserError(f"model.path={self.path} is neither a directory nor a hub id of the form owner/name.")
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.path, "config.json", revision=self.revision)
        if not isinstance(found, str):
            pinned = f" --revision {self.revision}" if self.revision else ""
            raise UserError(
                f"Model {self.path} is not in the local Hugging Face cache, and a run never downloads by itself. "
                f"Fetch it first: hf download {self.path}{pinned}"
            )
        return _complete(Path(found).parent)


def _complete(directory: Path) -> Path:
    for needed in ("config.json", "tokenizer_config.json"):
        if not (directory / needed).is_file():
            raise UserError(f"Model directory {directory} has no {needed}. Expected a Hugging Face model directory.")
    if not any(directory.glob("*.safetensors")):
        raise UserError(
            f"Model directory {directory} has no *.safetensors weights (pickled weights are not read). "
            "Convert it once: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)."
        )
    return directory
