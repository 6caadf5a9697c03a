"""Kills the SmolLM2 run ten times at random moments (SIGKILL), lets it finish, and compares it with an undisturbed run.

    python experiments/quickstart/random_kills.py FOLDER

Every byte of pairs, policies, metrics and scores must be equal. Smaller numbers than the quickstart's, the same stages. A run
that ends before it was killed ten times is compared, and another one is begun.
"""

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
rng = random.Random(0)
SETTINGS = [
    "data.num_prompts=36", "pairs_per_iteration=16", "train.pairs_per_step=4", "train.checkpoint_every_steps=1",
    "evaluation.num_prompts=12", "evaluation.num_perplexity_prompts=6", "sampler.group_size=12",
]  # fmt: skip


def start(folder: Path, store: Path) -> subprocess.Popen:
    arguments = [*SETTINGS, f"store.dir={store}", f"hydra.run.dir={folder}"]
    return subprocess.Popen([sys.executable, str(ROOT / "run.py"), *arguments], stdout=subprocess.DEVNULL)


def artefacts(folder: Path) -> dict[str, str]:
    files = [file for pattern in ("*.jsonl", "*.csv", "scores.json") for file in folder.rglob(pattern)]
    found = [*files, *(file for policy in folder.glob("iteration_*/policy") for file in policy.iterdir())]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in found if f.is_file()}


def kill_at_random(folder: Path, store: Path, seconds: float, kills: int) -> int:
    """Starts the run again and again, killing it after up to `seconds`, until it ends by itself or has been killed often
    enough and is let go on. Returns how many kills there were."""
    done = 0
    while True:
        process = start(folder, store)
        if done < kills:
            try:
                process.wait(timeout=rng.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                done += 1
                unfinished = sorted(lease.parent.name for lease in store.glob("*/*.lease"))
                print(f"kill {done} of this run: inside {', '.join(unfinished) or 'no stage'}", flush=True)
                process.wait()
                continue
        assert process.wait() == 0
        return done


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    begun = time.monotonic()
    assert start(folder / "undisturbed", folder / "store_undisturbed").wait() == 0
    half = (time.monotonic() - begun) / 2
    expected, kills, different = artefacts(folder / "undisturbed"), 0, []
    for number in range(KILLS):
        if kills < KILLS:
            name = f"killed_{number}"
            kills += kill_at_random(folder / name, folder / f"store_{name}", half, KILLS - kills)
            found = artefacts(folder / name)
            different += sorted(file for file in expected.keys() | found.keys() if expected.get(file) != found.get(file))
    print(f"{len(expected)} files compared after {kills} kills; different: {different or 'none'}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
