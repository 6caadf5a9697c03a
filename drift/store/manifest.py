"""The manifest of a finished stage: its inputs, its results, the size, time and sha256 of every file, and a sha256 of itself."""

import json
from pathlib import Path
from typing import Any

from drift.files import damage, seal
from drift.records import digest, write_json

MANIFEST = "manifest.json"
FORMAT = 3  # stages written in another format are ignored


class Damaged(Exception):
    """A stage that does not match its manifest, or has none. The message says why."""


def write(folder: Path, content: dict[str, Any]) -> None:
    """Writes the manifest of all files in the folder. Their times are listed separately, because they are not content."""
    sealed = seal(folder)
    files = {name: [size, sha256] for name, (size, _, sha256) in sealed.items()}
    put(folder, content | {"files": files, "modified": {name: sealed[name][1] for name in sealed}})


def put(folder: Path, content: dict[str, Any]) -> None:
    """Writes a manifest with the sha256 of itself, or replaces it."""
    manifest = json.loads(json.dumps(content))
    write_json(folder / MANIFEST, manifest | {"sha256": digest(manifest)})


def read(folder: Path, *, verify: bool) -> dict[str, Any] | None:
    """The manifest of an undamaged stage; None if there is no stage. `verify`: check the content of large files too. Raises
    Damaged."""
    if (found := listed(folder)) is None:
        return None
    sealed = {name: (size, found["modified"][name], sha256) for name, (size, sha256) in found["files"].items()}
    if (why := damage(folder, sealed, whole=verify)) is not None:
        raise Damaged(why)
    return found


def listed(folder: Path) -> dict[str, Any] | None:
    """The manifest of a stage, whose files are not looked at; None if there is no stage. Raises Damaged."""
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise Damaged("it is not a folder")
        return None
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8")) if (folder / MANIFEST).is_file() else None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} can't be read") from error
    except FileNotFoundError:  # moved away a moment ago
        return None
    if found is None and folder.is_dir():
        raise Damaged(f"it has no {MANIFEST}")
    if not isinstance(found, dict) or found.pop("sha256", None) != digest(found):
        raise Damaged(f"the content of {MANIFEST} has changed")
    return found
