"""The files that `data.path` means, and what they are called in records. A hub is never contacted."""

from collections.abc import Collection
from pathlib import Path

from drift.errors import UserError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz", ".parquet")
NO_LOG = (".md", ".html", ".txt", ".py", ".yaml", ".yml")  # what lies beside logs and is none


def files(path: str, pattern: str) -> list[Path]:
    """A file as it is; of a directory, or of a hub data set that is in the local cache, those whose names match `pattern`."""
    local = Path(path).expanduser()
    if local.is_file():
        if not readable(local):
            raise UserError(f"data.path={path}: expected a file that ends with {', '.join(SUFFIXES)}.")
        return [local]
    if not local.is_dir():
        local = _cached(path)
    found = sorted(file for file in local.rglob(pattern) if readable(file))
    if not found:
        raise UserError(f"data.path={path}: no file named {pattern} in {local}. Expected one that ends with {', '.join(SUFFIXES)}.")
    return found


def _cached(path: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise UserError(f"data.path={path}: no such file or directory, nor a hub data set of the form owner/name.")
    try:
        return Path(snapshot_download(path, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"Data set {path} is not in the local Hugging Face cache, and a run never downloads by itself. "
            f"Fetch it first: hf download --repo-type dataset {path}"
        ) from error


def readable(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)


def name_of(file: Path, path: str | None) -> str:
    """What a file is called in records: its place in the directory `path` or in the hub data set, so that two files of one name
    are two."""
    root = None if path is None else Path(path).expanduser()
    if root is not None and root.is_dir():
        return file.relative_to(root).as_posix()
    if "snapshots" in file.parts:
        return "/".join(file.parts[file.parts.index("snapshots") + 2 :])
    return file.name


def not_read(path: str | None, used: Collection[Path]) -> list[Path]:
    """The files of a user's directory that no reader takes because of how they are named."""
    root = None if path is None else Path(path).expanduser()
    if root is None or not root.is_dir():
        return []
    others = sorted(file for file in root.rglob("*") if file.is_file() and file not in used)
    hidden = [file for file in others if any(part.startswith(".") for part in file.relative_to(root).parts)]
    named = [file for file in others if file not in hidden and not file.name.upper().startswith(("README", "LICENSE"))]
    return [file for file in named if not file.name.lower().endswith(NO_LOG)]
