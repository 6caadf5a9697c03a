"""Three methods x three seeds as one sweep, against nine runs with a store each.

    python experiments/speed/sweep.py FOLDER [OVERRIDE ...]

The nine go first; both sides get the overrides (`iterations=1`) and nothing else to do.
"""

import argparse
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

from side_by_side import ROOT

METHODS, SEEDS = ("drift", "spin", "iterdpo"), ("0", "1", "2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new or empty: what is in a store is not computed")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    folder, overrides = arguments.folder.resolve(), arguments.overrides
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: what its stores hold would not be computed again. Name another.")
    alone = 0.0
    for method, seed in product(METHODS, SEEDS):
        own = folder / f"{method}-{seed}"
        alone += timed(f"method={method}", f"seed={seed}", f"store.dir={own}/store", f"hydra.run.dir={own}/run", *overrides)
    shared = ["-m", f"method={','.join(METHODS)}", f"seed={','.join(SEEDS)}"]
    together = timed(*shared, f"store.dir={folder}/shared/store", f"hydra.sweep.dir={folder}/shared/study", *overrides)
    print(f"nine runs {alone:.0f} s, one sweep {together:.0f} s: {together / alone:.2f} x")


def timed(*arguments: str) -> float:
    """Seconds that `run.py` takes with these arguments."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "run.py", *arguments], cwd=ROOT, check=True)
    seconds = time.monotonic() - begun
    print(f"{seconds:.0f} s: {' '.join(arguments)}", flush=True)
    return seconds


if __name__ == "__main__":
    main()
