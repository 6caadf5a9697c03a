"""Simulates power cuts: copies the image of an ext4 file system during a run on it, or 6 s after its end, mounts the copy, which
replays its journal, and runs the same command there. Needs root (loop devices).

    python experiments/reliability/power.py FOLDER [--times 10]
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from runs import command, finish, load, start, undisturbed, verdict, wait

MIB = 256


def shell(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    folder, cache, rng = arguments.folder.resolve(), arguments.folder.resolve() / "cache", random.Random(0)
    disk = folder / "disk"
    disk.mkdir(parents=True, exist_ok=True)
    load()
    new_disk(folder / "image", disk)
    expected, seconds = undisturbed("drift", disk / "work", cache)
    shell("umount", disk)
    outcomes = Counter[str]()
    for number in range(2 * arguments.times):
        during = number % 2 == 0
        after = rng.uniform(0.2 * seconds, seconds) if during else None
        empty, files = cut(folder, disk, cache, after)
        code = finish(start(command("drift", disk / "work", cache), disk / "again.txt"))
        found = verdict(disk / "work" / "run", code, disk / "again.txt", expected)
        name = f"{after:.1f} s after its begin" if after is not None else "6 s after its end"
        print(f"{number} {name}: {empty} of {files} files of the store empty; {found}", flush=True)
        outcomes[f"{'during' if during else 'after'}: {found}"] += 1
        shutil.copy(disk / "again.txt", folder / f"again-{number}.txt")
        shell("umount", disk)
    print(dict(outcomes))
    sys.exit(any(not outcome.endswith(": equal") for outcome in outcomes))


def new_disk(image: Path, disk: Path) -> None:
    image.unlink(missing_ok=True)
    with open(image, "wb") as file:
        file.truncate(MIB * 2**20)
    shell("mkfs.ext4", "-q", image)
    shell("mount", "-o", "loop", image, disk)


def cut(folder: Path, disk: Path, cache: Path, after: float | None) -> tuple[int, int]:
    """A run on a new disk, whose power is cut; what was on the disk then is mounted in its place. Returns how many of the store's
    files are empty, of how many."""
    new_disk(folder / "image", disk)
    pid = start(command("drift", disk / "work", cache), disk / "printed.txt")
    if after is None:
        assert finish(pid) == 0, (disk / "printed.txt").read_text()
        time.sleep(6)
    elif wait(pid, after) is None:
        os.kill(pid, signal.SIGSTOP)  # or the copy would hold several moments
    shutil.copyfile(folder / "image", folder / "copy")
    if after is not None:
        try:
            os.kill(pid, signal.SIGKILL)
            finish(pid)
        except (ProcessLookupError, ChildProcessError):
            pass  # it had ended
    shell("umount", disk)
    shell("mount", "-o", "loop", folder / "copy", disk)
    files = [file for file in (disk / "work" / "store").rglob("*") if file.is_file()]
    return sum(file.stat().st_size == 0 for file in files), len(files)


if __name__ == "__main__":
    main()
