"""Many runs on one store: 16 processes, two PID namespaces, hard links refused, clocks two hours apart.

    python experiments/reliability/together.py FOLDER [--rounds 3]

Every run must end with the artefacts of an undisturbed run; duplicate work is counted. The PID namespaces need root (unshare); both
sides have the same host name and, as the first process of their namespace, the same pid.
"""

import argparse
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

from runs import ROOT, command, finish, load, start, undisturbed, verdict

from drift.report.foreign import members_of  # found as runs puts the root on the path


def refuse_links() -> None:
    def refused(*arguments, **settings):
        raise OSError(errno.EPERM, "Operation not permitted")

    os.link = refused


def two_hours_on() -> None:
    now, utime = time.time, os.utime
    time.time = lambda: now() + 7200
    os.utime = lambda path, *rest, **settings: (
        utime(path, (now() + 7200,) * 2) if not rest + (*settings,) else utime(path, *rest, **settings)
    )


def computed(runs: list[Path]) -> int:
    """Stages that the runs computed, together."""
    states = [member.state for run in runs for member in members_of(run)]
    return sum(not stage.hit for state in states for stage in state.stages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder, cache = arguments.folder.resolve(), arguments.folder.resolve() / "cache"
    load()
    expected, _ = undisturbed("drift", folder / "alone", cache)
    alone = computed([folder / "alone" / "run"])
    nothing = lambda: None  # noqa: E731
    wrong = 0
    cases = {"16 processes": [nothing] * 16, "links refused": [refuse_links] * 2, "clocks two hours apart": [nothing, two_hours_on]}
    for number in range(arguments.rounds):
        for name, changes in cases.items():
            place = folder / f"{name.replace(' ', '-')}-{number}"
            pids = [
                start(command("drift", place / str(i), cache, place / "store"), place / f"{i}.txt", change)
                for i, change in enumerate(changes)
            ]
            codes = [finish(pid, 600) for pid in pids]
            wrong += report(name, number, place, codes, expected, alone)
        for apart in (0.0, 7.0):
            wrong += report(
                f"two PID namespaces, {apart:g} s apart", number, *namespaces(folder, cache, number, apart), expected, alone
            )
    sys.exit(bool(wrong))


def namespaces(folder: Path, cache: Path, number: int, apart: float) -> tuple[Path, list[int]]:
    place, started = folder / f"namespaces-{apart:g}-{number}", []
    place.mkdir(parents=True, exist_ok=True)
    for i in range(2):
        arguments = command("drift", place / str(i), cache, place / "store")
        words = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, str(ROOT / "run.py"), *arguments]
        with open(place / f"{i}.txt", "w") as printed:
            started.append(subprocess.Popen(words, stdout=printed, stderr=printed))
        time.sleep(apart if i == 0 else 0)
    return place, [process.wait() for process in started]


def report(name: str, number: int, place: Path, codes: list[int], expected: dict[str, str], alone: int) -> int:
    """Prints how it went; the number of runs that went wrong."""
    runs = [place / str(i) / "run" for i in range(len(codes))]
    found = [verdict(run, code, place / f"{i}.txt", expected) for i, (run, code) in enumerate(zip(runs, codes, strict=True))]
    wrong = [text for text in found if text != "equal"]
    twice = computed(runs) - alone if not wrong else "unknown"
    print(
        f"{name}, round {number}: {len(found) - len(wrong)} of {len(found)} equal, stages computed more than once: {twice}",
        flush=True,
    )
    for text in wrong:
        print("  " + text)
    left = [path.name for path in (place / "store").glob("*/*.*") if path.suffix != ".use"]
    if left:
        print(f"  left in the store: {left}")
    return len(wrong) + len(left)


if __name__ == "__main__":
    main()
