"""Kills runs of five kinds at random moments, again and again, resumes them, and compares each with an undisturbed run.

    python experiments/reliability/kills.py FOLDER [--kills 200] [--seed 0] [--kind drift] [SETTING ...]

Settings apply to all runs: `model=smollm2-135m sampler.max_new_tokens=48` for the real small model.

The signals: SIGKILL, SIGTERM, SIGINT, and SIGSTOP until another run has taken over and finished, then SIGCONT. Every byte of
records, examples, policies, metrics and scores must be equal, and the store may contain nothing but finished stages.
"""

import argparse
import itertools
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path

from runs import KINDS, command, finish, load, start, undisturbed, verdict, wait

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
IN_A_ROW = 4  # kills of one run before it may finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the signals and their moments")
    parser.add_argument("--kind", choices=KINDS, help="one of the kinds of runs (default: all)")
    parser.add_argument("settings", nargs="*")
    arguments = parser.parse_intermixed_args()
    folder, cache, rng = arguments.folder.resolve(), arguments.folder.resolve() / "cache", random.Random(arguments.seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes its background jobs ignore it
    load()
    changes, kinds = arguments.settings, [arguments.kind] if arguments.kind else list(KINDS)
    expected = {kind: undisturbed(kind, folder / f"undisturbed-{kind}", cache, changes) for kind in kinds}
    done, wrong = Counter[str](), []
    for number, kind in enumerate(itertools.cycle(kinds)):
        if done.total() >= arguments.kills:
            break
        mine = folder / f"{number}-{kind}"
        words = [*command(kind, mine, cache, changes=changes), "store.lease_seconds=2"]
        for _ in range(min(IN_A_ROW, arguments.kills - done.total())):
            number_of = rng.choice(SIGNALS)
            if disturb(words, mine, number_of, rng.uniform(0.2, expected[kind][1]), rng):
                done[f"{kind} {number_of.name}"] += 1
        code = finish(start(words, mine / "last.txt"), 3600)
        found = verdict(mine / "run", code, mine / "last.txt", expected[kind][0])
        left = [path.name for path in (mine / "store").glob("*/*.*") if path.suffix != ".use"]
        print(f"{done.total()} {mine.name}: {found}" + (f", left in the store: {left}" if left else ""), flush=True)
        wrong += [mine.name] if found != "equal" or left else []
    print(f"{done.total()} kills: {dict(done)}; wrong: {wrong or 'none'}")
    sys.exit(bool(wrong))


def disturb(words: list[str], mine: Path, number: signal.Signals, after: float, rng: random.Random) -> bool:
    """Whether the run was still there to be disturbed."""
    pid = start(words, mine / "printed.txt")
    if wait(pid, after) is not None:
        return False
    os.kill(pid, number)
    if number == signal.SIGSTOP:
        other = start(words, mine / "other.txt")
        code = wait(other, rng.uniform(3, 20))
        os.kill(pid, signal.SIGCONT)
        assert (finish(other, 3600) if code is None else code) == 0, (mine / "other.txt").read_text()
        assert finish(pid, 3600) == 0, (mine / "printed.txt").read_text()
        return True
    finish(pid)
    return True


if __name__ == "__main__":
    main()
