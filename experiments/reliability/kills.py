"""Kills runs of five kinds at random moments, again and again, lets each go on, and compares it with an undisturbed one.

    python experiments/reliability/kills.py FOLDER [--kills 200]

SIGKILL, SIGTERM, SIGINT, and SIGSTOP until another run has taken over and finished, then SIGCONT. Every byte of records, pairs,
policies, metrics and scores must be equal, and nothing may be left in the store beside finished stages.
"""

import argparse
import itertools
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path

from runs import KINDS, artefacts, command, finish, load, start, undisturbed, verdict, wait

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
IN_A_ROW = 4  # of one run, before it is let go on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    arguments = parser.parse_args()
    folder, cache, rng = arguments.folder.resolve(), arguments.folder.resolve() / "cache", random.Random(0)
    load()
    expected = {kind: undisturbed(kind, folder / f"undisturbed-{kind}", cache) for kind in KINDS}
    done, wrong = Counter[str](), []
    for number, kind in enumerate(itertools.cycle(KINDS)):
        if done.total() >= arguments.kills:
            break
        mine = folder / f"{number}-{kind}"
        for _ in range(min(IN_A_ROW, arguments.kills - done.total())):
            number_of = rng.choice(SIGNALS)
            if disturb(kind, mine, cache, number_of, rng.uniform(0.2, expected[kind][1])):
                done[f"{kind} {number_of.name}"] += 1
        code = finish(start(command(kind, mine, cache), mine / "last.txt"))
        found = verdict(last_run(mine), code, mine / "last.txt", expected[kind][0])
        left = [path.name for path in (mine / "store").glob("*/*.*")]
        print(f"{done.total()} {mine.name}: {found}" + (f", left in the store: {left}" if left else ""), flush=True)
        wrong += [mine.name] if found != "equal" or left else []
    print(f"{done.total()} kills: {dict(done)}; wrong: {wrong or 'none'}")
    sys.exit(bool(wrong))


def last_run(mine: Path) -> Path:
    """A run that finds its folder owned by another (one that is stopped, say) takes FOLDER-2."""
    return max(mine.glob("run*"), key=lambda path: len(artefacts(path)) * 100 + path.stat().st_mtime_ns / 1e18)


def disturb(kind: str, mine: Path, cache: Path, number: signal.Signals, after: float) -> bool:
    """Whether the run was still there to be disturbed."""
    pid = start([*command(kind, mine, cache), "store.lease_seconds=2"], mine / "printed.txt")
    if wait(pid, after) is not None:
        return False
    os.kill(pid, number)
    if number == signal.SIGSTOP:
        other = start([*command(kind, mine, cache), "store.lease_seconds=2"], mine / "other.txt")
        code = wait(other, random.Random(after).uniform(3, 20))
        os.kill(pid, signal.SIGCONT)
        assert (finish(other) if code is None else code) == 0, (mine / "other.txt").read_text()
        assert finish(pid) == 0, (mine / "printed.txt").read_text()
        return True
    finish(pid)
    return True


if __name__ == "__main__":
    main()
