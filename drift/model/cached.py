"""Models and data that this program creates once per machine, in a cache folder; created atomically, and again if damaged."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from drift.console import say
from drift.errors import writable
from drift.files import Seal, beside, create, damage, discard, put, seal

SEAL = ".seal"  # in the model's folder: size, time and sha256 of its files
LEFT_SECONDS = 86400.0  # no conversion takes this long: an older scratch folder was left by a killed process


def cache(cache_dir: str | None) -> Path:
    """The cache folder. None: $XDG_CACHE_HOME/drift or ~/.cache/drift."""
    root = cache_dir or os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "drift")
    return Path(root).expanduser()


def made_once(final: Path, make: Callable[[Path], None], *, setting: str = "model.cache_dir") -> Path:
    """Returns `final`. Unless it exists undamaged, `make(scratch)` is called first, and must write the model to `scratch/model`.
    `setting`: the one that chooses another cache folder, for messages."""
    with writable(final.parent, setting):
        why = _damage(final)
        if final.is_dir() and why is None:
            return final
        if why is not None:
            say(f"{final} is damaged ({why}) and is created again.")
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch = beside(final, "making")
        scratch.mkdir()
        try:
            make(scratch)
            create(scratch / "model" / SEAL, json.dumps(seal(scratch / "model")).encode(), sync=True)
            if why is not None:
                discard(final)
            try:
                put(scratch / "model", final)
            except OSError:  # another process was faster
                if not final.is_dir():
                    raise
            _remove_left(final, scratch.stat().st_mtime)
        finally:
            discard(scratch)
    return final


def _damage(final: Path) -> str | None:
    try:
        found = json.loads((final / SEAL).read_text(encoding="utf-8"))
        sealed: Seal = {name: (size, modified, sha256) for name, (size, modified, sha256) in found.items()}
    except FileNotFoundError:  # nothing there, or created by an earlier version
        return None
    except NotADirectoryError:
        return "it is not a folder"
    except (ValueError, TypeError, AttributeError):
        return f"{SEAL} can't be read"
    return damage(final, sealed, whole=False)


def _remove_left(final: Path, now: float) -> None:
    """Removes the scratch folders of killed processes. `now`: by the file system's clock, which also set their times."""
    for left in final.parent.glob(f"{final.name}.making.*"):
        with suppress(FileNotFoundError):  # another process removes them too
            if now - left.stat().st_mtime > LEFT_SECONDS:
                discard(left)
