"""Which fully trained policies a run keeps, and how the weights of the others are removed from their stages.

Of a policy that is not kept, the weights go and everything else stays: settings, tokenizer, steps, and the sha256 of the weights,
so that it keeps its fingerprint and everything computed from it keeps its key. The same command finds all its stages as before. Who
needs the weights is told so (model/files.py), and with store.keep_policies=all such a stage counts as missing: it is made again.
Adapters are small and always stay."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from drift.errors import writable
from drift.files import hash_file
from drift.records import write_json
from drift.store import manifest
from drift.store.lease import held
from drift.store.users import User, counting, owner_of, removing, stage_of, uses

POLICY, REMOVED = "policy", "removed.json"  # of a train stage; drift/model/files.py reads the second
WEIGHTS, ADAPTER = "*.safetensors", "adapter_config.json"


def apply(keep: int | Literal["all"], user: User, policies: Mapping[str, Path], scores: Mapping[str, float | None]) -> list[str]:
    """Removes the weights of a run's full policies that are not kept; returns the names of those that have none now. `policies`:
    name -> stage, in order; `scores`: name -> the headline's value."""
    full = {name: stage for name, stage in policies.items() if not (stage / POLICY / ADAPTER).exists()}
    if keep == "all" or not (removed := to_remove(list(full), scores, keep)):
        return []
    with writable(user.store, "store.dir"):
        return remove_weights(user, {name: full[name] for name in removed})


def to_remove(trained: Sequence[str], scores: Mapping[str, float | None], keep: int) -> list[str]:
    """Which of a run's full policies to remove: all but the last `keep`, and the one with the highest score (the later of two).
    `trained`: their names, in order."""
    values = [(scores.get(name), i) for i, name in enumerate(trained)]
    known = [(value, i) for value, i in values if value is not None and not math.isnan(value)]
    best = {trained[max(known)[1]]} if known else set()
    return [name for name in trained[:-keep] if name not in best]


def remove_weights(user: User, directories: Mapping[str, Path]) -> list[str]:
    """Removes the weights of these policies (name -> stage), unless another run needs them: one that goes on, or one in another
    folder that has used them, except earlier attempts of the same run, which this one goes on with. Returns the names of those
    that have none now."""
    lacking = []
    with removing(user.store):
        theirs = {stage for use in counting(uses(user.store)) if _is_anothers(user, use) for stage in use.stages}
        for name, path in directories.items():
            stage = stage_of(path, user.store)
            if stage not in theirs and not held(path.with_name(f"{path.name}.lease")):
                _remove(path)
            if lacks_weights(path, manifest.listed(path)):
                lacking.append(name)
    return lacking


def lacks_weights(stage: Path, found: dict[str, Any] | None) -> bool:
    """Whether the weights that this stage once had are gone; `found`: its manifest."""
    return found is not None and any(not (stage / name).is_file() for name in found.get("removed", {}))


def is_whole(stage: Path) -> bool:
    """Whether a stage is finished and lacks no weights. One that lacks them may be made again just now, beside it."""
    try:
        found = manifest.listed(stage)
    except manifest.Damaged:
        return False
    return found is not None and not lacks_weights(stage, found)


def _is_anothers(user: User, use: Any) -> bool:
    if use.file == user.file or (use.folder == user.folder.resolve() and not use.live):
        return False
    mine = owner_of(user.folder)
    return use.live or not mine or use.settings != mine or use.finished


def _remove(stage: Path) -> None:
    """First the manifest stops listing the weights, then they go: a process that is killed in between leaves a whole policy."""
    found = manifest.read(stage, verify=False)
    if found is None:
        return
    if "removed" not in found:
        weights = {file.name: f"{POLICY}/{file.name}" for file in sorted((stage / POLICY).glob(WEIGHTS))}
        write_json(stage / POLICY / REMOVED, {name: found["files"][path][1] for name, path in weights.items()})
        note, files = stage / POLICY / REMOVED, dict(found["files"])
        gone = {path: files.pop(path) for path in weights.values()}
        files[f"{POLICY}/{REMOVED}"] = [note.stat().st_size, hash_file(note)]
        modified = {name: time for name, time in found["modified"].items() if name in files}
        modified[f"{POLICY}/{REMOVED}"] = note.stat().st_mtime_ns
        found |= {"files": files, "modified": modified, "removed": gone}
        manifest.put(stage, found)
    for name in found["removed"]:
        (stage / name).unlink(missing_ok=True)
