"""Hub data sets by id (owner/name), from the local caches: nothing is fetched, and no code of a data set is run.

The library `datasets` decides which files belong to a config and a split: by the data set's card (`configs` in its README.md), or
by file names. Their rows are read like those of any other file (drift/intake/rows.py), so damage costs only the rows it touches.
There are two caches: `hf download` keeps the original files, `datasets.load_dataset` converts each config to Arrow files.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drift.errors import UserError, nearest


def find_cached(path: str, config: str | None, split: str | None) -> Path | list[Path]:
    """The folder with a data set's files, or the list of files if a config or a split is given. Raises UserError, with the command
    that fetches the data set, if it is in neither cache."""
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise UserError(f"data.path={path}: no such file or directory, nor a hub data set of the form owner/name.")
    folder = _downloaded(path)
    if folder is not None and config is None and split is None:
        return folder
    import datasets

    with tempfile.TemporaryDirectory() as scratch, _quiet(datasets):  # the library creates a folder to prepare a data set in
        try:
            if folder is not None:
                named = datasets.load_dataset_builder(str(folder), config, cache_dir=scratch).config.data_files or {}
                splits = {str(name): [Path(file) for file in files] for name, files in named.items()}
            else:
                splits = _prepared(datasets.load_dataset_builder(path, config))
        except (ConnectionError, FileNotFoundError) as error:  # what the library raises for an unknown data set
            raise UserError(
                f"{path} is no file or directory here, and no data set in the local Hugging Face cache; a run never downloads by "
                f"itself. Fetch it first: hf download --repo-type dataset {path}"
            ) from error
        except ValueError as error:  # no such config, or several configs and none given
            raise UserError(f"data.path={path}: {_sentence(error)} Choose one with data.config=NAME.") from error
    if split is not None and split not in splits:
        raise UserError(f"data.split={split}: {path} has no such split.{nearest(split, splits)}")
    return sorted(file for name, files in splits.items() if split in (None, name) for file in files)


def _downloaded(path: str) -> Path | None:
    """Where `hf download` put the data set, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _prepared(builder: Any) -> dict[str, list[Path]]:
    """The Arrow files of each split, as `datasets.load_dataset` left them."""
    from datasets.naming import filenames_for_dataset_split

    return {
        name: [
            Path(file)
            for file in filenames_for_dataset_split(
                builder.cache_dir, builder.dataset_name, name, filetype_suffix="arrow", shard_lengths=about.shard_lengths
            )
        ]
        for name, about in (builder.info.splits or {}).items()
    }


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Silences the library's warnings: this module's own messages say the same."""
    before = datasets.utils.logging.get_verbosity()
    datasets.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.utils.logging.set_verbosity(before)


def _sentence(error: Exception) -> str:
    """The first two lines of the library's message, which list what is available."""
    return " ".join(str(error).strip().splitlines()[:2]).rstrip(".") + "."
