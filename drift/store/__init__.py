"""Stages: resumable pieces of work whose output directory is keyed by what went into it.

    store.run("reference", work, version=1, settings={...}, inputs={...}) -> Stage

The key is the sha256 of (format, name, version, settings, inputs); `settings` contains each configured part by its `identity` (see
drift/identity.py), which includes the source of its class. A finished stage is a directory `DIR/NAME/KEY` that was renamed into
place after it had been synced to disk, so a killed run or a power cut leaves nothing half-written, and the same command computes
what is missing. The manifest has the size and sha256 of every file: a damaged stage is set aside and computed again. The manifest,
not the key, records commit, versions, device and threads. A lease only saves duplicate work: correctness comes from the rename, and
the slower of two processes discards its copy.
"""

from drift.store.environment import environment, peak_gib
from drift.store.lease import lease
from drift.store.manifest import MANIFEST
from drift.store.stage import Stage, Store
from drift.store.users import used_together

__all__ = ["MANIFEST", "Stage", "Store", "environment", "lease", "peak_gib", "used_together"]
