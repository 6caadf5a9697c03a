"""Any Hugging Face causal model with a chat template, or an adapter (also a policy that a run has trained): a local directory, or a
hub id that is already in the cache.

No hub is ever contacted: for a missing id, the error message has the command that fetches it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.model import adapter
from drift.model.files import check_model_files
from drift.model.template import check_arguments


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """`path`: directory or hub id. `revision`: commit of the hub id (null: the cached main branch). `template`: arguments for
    every rendering of the chat template."""

    path: str
    revision: str | None
    template: dict[str, Any]

    def check(self) -> None:
        check_arguments(self.template)
        self.directory()

    def directory(self) -> Path:
        """The checked directory with config, safetensors weights and tokenizer, or with an adapter."""
        return checked_directory(self.path, self.revision, "model.path")


def checked_directory(path: str, revision: str | None, setting: str) -> Path:
    """The directory of a model or an adapter, its files checked by name. `setting`: the path's name."""
    directory = local_directory(path, revision, setting)
    if policies := sorted(directory.glob("iteration_*/policy")):
        raise UserError(f"{directory} is the folder of a run. Use one of its policies, for example {setting}={policies[-1]}.")
    if (directory / adapter.CONFIG).is_file():
        adapter.check_adapter(directory)
        check_model_files(adapter.base_of(directory).directory)
    else:
        check_model_files(directory)
    return directory


def local_directory(path: str, revision: str | None, setting: str, only: str = "") -> Path:
    """The directory of a model, not yet checked: `path` itself, or that of a hub id in the cache. `setting`: the path's name;
    `only`: the file that is enough, for the command that fetches it."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise UserError(f"{setting}={path} is neither a directory nor a hub id of the form owner/name.")
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(path, name, revision=revision) for name in ("config.json", adapter.CONFIG))
    file = next((file for file in found if isinstance(file, str)), None)
    if file is None:
        words = ["hf download", path, *([only] if only else []), *(["--revision", revision] if revision else [])]
        raise UserError(
            f"{path} is no directory here, and no model in the local Hugging Face cache; a run never downloads by itself. "
            f"Fetch it first: {' '.join(words)}"
        )
    return Path(file).parent
