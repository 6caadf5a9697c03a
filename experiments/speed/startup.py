"""How long one waits: for the help, for word of a mistyped key, and from the command to the first training step.

    python experiments/speed/startup.py FOLDER [OVERRIDE ...]

FOLDER gets a store in which one run has left all that comes before training; the runs that are timed have learning rates that
no other run has, and end where their first step begins.
"""

import argparse
import os
import runpy
import statistics
import subprocess
import sys
import time
from pathlib import Path

from side_by_side import ROOT

REACHED = 77  # the exit status that says: the first step began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        until_first_step(arguments.overrides)
    program = [sys.executable, str(ROOT / "run.py")]
    waits("--help", [[*program, "--help"]] * arguments.repeats, expected=0)
    waits("a mistyped key", [[*program, "sede=1"]] * arguments.repeats, expected=1)
    folder = arguments.folder.resolve()
    common = ["iterations=1", f"store.dir={folder}/store", f"hydra.run.dir={folder}/run", *arguments.overrides]
    subprocess.run([*program, *common], cwd=ROOT, check=True)
    child = [sys.executable, __file__, "--child", str(folder)]
    rates = [f"train.learning_rate={(1 + i) / 10**7}" for i in range(arguments.repeats)]
    waits("the first training step", [[*child, *common, rate] for rate in rates], expected=REACHED)


def waits(what: str, commands: list[list[str]], expected: int) -> None:
    seconds = []
    for command in commands:
        begun = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        seconds.append(time.monotonic() - begun)
        if done.returncode != expected:
            sys.exit(f"{done.stdout}{done.stderr}\n{command} ended with {done.returncode}, expected {expected}")
    print(f"{what}: {statistics.median(seconds):.2f} s [{min(seconds):.2f}, {max(seconds):.2f}]", flush=True)


def until_first_step(overrides: list[str]) -> None:
    """`run.py` in this process, which ends where the first step would begin."""
    from drift.train import modules

    modules.PolicyModule.training_step = lambda *_: os._exit(REACHED)  # type: ignore[method-assign]
    sys.argv = ["run.py", *overrides]
    runpy.run_path(str(ROOT / "run.py"), run_name="__main__")


if __name__ == "__main__":
    main()
