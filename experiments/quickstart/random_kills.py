"""Kills the SmolLM2 run ten times at random moments (SIGKILL), lets it finish, and compares it with an undisturbed run.

    python experiments/quickstart/random_kills.py FOLDER

Every byte of pairs, policies, metrics and scores must be equal. Smaller numbers than the quickstart's, the same stages.
"""

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
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


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    begun = time.monotonic()
    assert start(folder / "undisturbed", folder / "store_undisturbed").wait() == 0
    whole = time.monotonic() - begun
    rng, kills = random.Random(0), 0
    while kills < KILLS:
        process = start(folder / "killed", folder / "store_killed")
        time.sleep(rng.uniform(0.2, 0.6) * whole)
        if process.poll() is None:
            process.kill()
            kills += 1
            unfinished = sorted(p.parent.name for p in (folder / "store_killed").glob("*/*.lease"))
            print(f"kill {kills}: inside {', '.join(unfinished) or 'no stage'}", flush=True)
        process.wait()
    assert start(folder / "killed", folder / "store_killed").wait() == 0
    one, other = artefacts(folder / "undisturbed"), artefacts(folder / "killed")
    different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    print(f"{len(one)} files compared after {KILLS} kills; different: {different or 'none'}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
