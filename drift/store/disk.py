"""Room on the disk of a store."""

import shutil
from pathlib import Path

NEARLY_FULL = 500e6  # bytes: with less than that free a run says so, once


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, which need not exist yet."""
    place = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.exists())
    return shutil.disk_usage(place).free


def in_bytes(count: float) -> str:
    """28.1 GB, 3.2 MB or 4.1 kB: decimal, as disks are sold."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"
