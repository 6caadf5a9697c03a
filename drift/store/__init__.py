"""Stages: resumable pieces of work whose output directory is keyed by what went into it.

    store.run("reference", work, version=1, settings={...}, inputs={...}) -> Stage

The key is the sha256 of (format, name, version, settings, inputs); a configured part stands in `settings` by its `identity` (see
drift/identity.py), the source file of its class included. A finished stage is a directory `DIR/NAME/KEY` that was renamed into
place once it was on the disk; so a killed run or a power cut leaves nothing half-written, and the same command again finishes what
is missing. Its manifest holds size and sha256 of its files: a stage that is damaged is set aside and computed again. The manifest,
not the key, records commit, versions, device and threads. A lease only saves duplicate work: correctness comes from the rename,
and whoever comes second throws its own copy away.
"""

from drift.store.environment import environment, peak_gib
from drift.store.lease import lease
from drift.store.manifest import MANIFEST
from drift.store.stage import Stage, Store

__all__ = ["MANIFEST", "Stage", "Store", "environment", "lease", "peak_gib"]
