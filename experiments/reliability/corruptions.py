"""Damages a finished store in several ways, one file at a time, and runs the same command again.

    python experiments/reliability/corruptions.py FOLDER

The damage: a flipped bit (size and time stay the same), a file cut in half, emptied or deleted; for a file of every kind, including
leases and checkpoints of a killed run. No damaged file may be used or stop the program, and a finished store must heal: the damaged
stages are computed again, with a message.
"""

import argparse
import os
import random
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from runs import command, finish, load, start, undisturbed, verdict, wait


def flip(file: Path, rng: random.Random) -> None:
    status, content = file.stat(), bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


WAYS = {
    "flip": flip,
    "cut": lambda file, rng: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file, rng: file.write_bytes(b""),
    "delete": lambda file, rng: file.unlink(),
}


def kinds(place: Path) -> Iterator[Path]:
    """One file of every kind, relative to the folder."""
    seen = set()
    for file in sorted(path for path in place.rglob("*") if path.is_file() and not path.is_symlink()):
        kind = re.sub(r"[0-9a-f]{16,}", "KEY", str(file.relative_to(place)))
        if kind not in seen and file.stat().st_size:
            seen.add(kind)
            yield file.relative_to(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    folder, cache, rng = arguments.folder.resolve(), arguments.folder.resolve() / "cache", random.Random(0)
    load()
    whole, killed, trial = folder / "whole", folder / "killed", folder / "trial"
    expected, _ = undisturbed("drift", whole, cache)
    half_done(killed, cache)
    outcomes = Counter[str]()
    for source in (whole, killed):
        for file in kinds(source / "store"):
            if source == killed and ".progress." not in str(file) and ".lease" not in str(file):
                continue
            for way, damage in WAYS.items():
                shutil.rmtree(trial, ignore_errors=True)
                shutil.copytree(source / "store", trial / "store")
                damage(trial / "store" / file, rng)
                code = finish(start([*command("drift", trial, cache), "store.lease_seconds=3"], trial / "printed.txt"))
                found = verdict(trial / "run", code, trial / "printed.txt", expected)
                said = re.search(r"is damaged|can't be read", (trial / "printed.txt").read_text())
                outcomes[f"{found.split(':')[0]}, {'said' if said else 'nothing to say'}"] += 1
                print(f"{outcomes.total()} {way} {file}: {found}, {'said' if said else 'nothing to say'}", flush=True)
    print(dict(outcomes))
    sys.exit(any(not outcome.startswith("equal") for outcome in outcomes))


def half_done(place: Path, cache: Path) -> None:
    """A store whose run was killed in the middle of training."""
    pid = start(command("drift", place, cache), place / "printed.txt")
    while not list(place.glob("store/train/*.progress.*/last.ckpt")):
        assert wait(pid, 0.001) is None, "it was too fast"
    os.kill(pid, signal.SIGKILL)
    finish(pid)


if __name__ == "__main__":
    main()
