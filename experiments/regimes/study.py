"""When does dissatisfaction win? Nine arms, tuned alike, in six regimes of feedback on one simulated deployment; resumable.

    python experiments/regimes/study.py FOLDER                  every phase; stopped, the same command goes on
    python experiments/regimes/study.py FOLDER --phases tune R1 only these
    python experiments/regimes/study.py FOLDER --arms DRIFT SFT only these, for instance the ones of the primary question first
    python experiments/regimes/study.py FOLDER --minutes 60     begins nothing more after an hour
    python experiments/regimes/study.py --show                  the tables of the kept runs

Every finished run becomes a line of experiments/regimes/runs.jsonl (tuning runs too), and a run that is there is not run again: a
fresh machine goes on where another stopped. FOLDER holds what can be thrown away: the runs and their store.

`tune`: validation topics, regime R1, four configurations an arm on one seed, the better two on a second; the best mean gain is the
arm's configuration in every regime. `R0` to `R5`: test topics, fresh seeds, which vary the log, the prompts and training. R1's
first eight seeds decide how many there are (`wanted`): the rule was written down before they ran. `old`: five iterations from one
log, validation topics, with what may keep DRIFT from collapsing; what did not hold in one seed is not run with the next.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from figures import choose, finalists, still_held, wanted  # noqa: E402
from settings import (  # noqa: E402
    ARMS,
    CHOICES,
    COMMON,
    FIRST,
    OLD,
    OLD_AS_IT_IS,
    OLD_LOG,
    OLD_SEEDS,
    PHASES,
    PRIMARY,
    REGIMES,
    RIVALS,
    TEST_SEEDS,
    TUNE_SEEDS,
)  # fmt: skip
from tables import show  # noqa: E402

from drift.console import say  # noqa: E402
from drift.records import digest, read_jsonl, write_jsonl  # noqa: E402

HERE = Path(__file__).parent
RUNS = HERE / "runs.jsonl"
AT_A_TIME = 2
METRICS = ("utility", "request met", "on topic", "words", "missing ends", "distinct-2", "perplexity under start")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: an arm with a configuration, in a phase, with a seed."""

    phase: str
    arm: str
    config: tuple[str, ...]
    seed: int

    @property
    def key(self) -> tuple[str, str, tuple[str, ...], int]:
        return self.phase, self.arm, self.config, self.seed

    @property
    def name(self) -> str:
        words = re.sub(r"[^\w]+", "-", self.arm)
        return f"{self.phase}-{words}-{digest(self.config)[:6]}-{self.seed}"

    def overrides(self, start: Path) -> list[str]:
        if self.phase == "old":
            split = ["evaluation.deployment.split=validation", "evaluation.deployment.num_prompts=84"]
            return merged(COMMON, split, ARMS[PRIMARY], OLD_LOG, self.config)
        regime = REGIMES["R1" if self.phase == "tune" else self.phase]
        split = ["split=validation", "num_prompts=84"] if self.phase == "tune" else ["split=test", "num_prompts=96"]
        model = ["model=pretrained", f"model.path={start}"] if self.phase == "R3" else []
        return merged(COMMON, [f"evaluation.deployment.{item}" for item in split], model, ARMS[self.arm], regime, self.config)


def merged(*parts: Any) -> list[str]:
    """Overrides, a later one in the place of an earlier one of its key."""
    found = {item.partition("=")[0]: item for part in parts for item in part}
    return list(found.values())


def jobs(phase: str, known: list[dict[str, Any]], arms: list[str]) -> list[Job]:
    """The phase's runs as far as they are known by now, primary arms first, so that a stopped study has the question's answer."""
    if phase == "tune":
        first, second = TUNE_SEEDS
        rounds = [(first, {arm: CHOICES[arm] for arm in arms}), (second, {arm: finalists(known, arm) for arm in arms})]
        return [
            Job(phase=phase, arm=arm, config=tuple(config), seed=seed)
            for seed, configs in rounds
            for arm in arms
            for config in configs[arm]
        ]
    chosen = {arm: found for arm in arms if (found := choose(known, arm)) is not None}
    if phase == "old":
        tuned = {name: merged(chosen[PRIMARY], changes) for name, changes in OLD.items()} if PRIMARY in chosen else {}
        return [
            Job(phase=phase, arm=name, config=tuple(config), seed=seed)
            for seed in OLD_SEEDS
            for name, config in tuned.items()
            if name == OLD_AS_IT_IS or still_held(known, name, seed)
        ]
    groups = [(wanted(known) if phase == "R1" else FIRST, [PRIMARY, *RIVALS])]
    groups += [(FIRST, [arm for arm in ARMS if arm not in (PRIMARY, *RIVALS)])]
    return [
        Job(phase=phase, arm=arm, config=tuple(chosen[arm]), seed=seed)
        for count, group in groups
        for seed in TEST_SEEDS[:count]
        for arm in group
        if arm in chosen
    ]


def kept(state: dict[str, Any], job: Job, seconds: float) -> dict[str, Any]:
    """The line of a finished run."""
    points = {}
    for point in state["points"]:
        metrics = point["scores"]["deployment"]["metrics"]
        points[point["name"]] = {name: metrics[name]["value"] for name in METRICS}
    log = {name: value for name, value in state["data"].items() if isinstance(value, int)}
    trained = [{name: point[name] for name in ("examples", "steps", "counts")} for point in state["points"] if "examples" in point]
    place = {"phase": job.phase, "arm": job.arm, "config": list(job.config), "seed": job.seed}
    return place | {"points": points, "log": log, "trained": trained, "alarms": len(state["alarms"]), "seconds": round(seconds)}


def perform(folder: Path, phase: str, arms: list[str], latest: float, start: Path) -> None:
    """Runs what the phase lacks, AT_A_TIME together. A run that fails is told of, and the others go on."""
    known = read_known()
    done = {(row["phase"], row["arm"], tuple(row["config"]), row["seed"]) for row in known}
    waiting = [job for job in jobs(phase, known, arms) if job.key not in done]
    running: list[tuple[Job, subprocess.Popen[bytes], float]] = []
    begun, count, ended = time.monotonic(), len(waiting), 0
    try:
        while running or (waiting and time.monotonic() < latest):
            while waiting and len(running) < AT_A_TIME and time.monotonic() < latest:
                job = waiting.pop(0)
                running.append((job, launch(folder, job, start), time.monotonic()))
            time.sleep(1)
            for item in [item for item in running if item[1].poll() is not None]:
                job, process, since = item
                running.remove(item)
                ended, seconds = ended + 1, time.monotonic() - since
                if process.returncode == 0:
                    state = json.loads((folder / job.name / "run.json").read_text(encoding="utf-8"))
                    write_jsonl(RUNS, [*read_known(), kept(state, job, seconds)])
                left = (count - ended) * (time.monotonic() - begun) / ended / 60
                how = f"FAILED, see {folder / job.name}.log" if process.returncode else f"{seconds / 60:.1f} min"
                say(f"{job.name}: {how}; {ended} of {count}, about {left:.0f} min left")
    finally:
        for _, process, _ in running:
            process.terminate()  # what its finished stages made stays in the store
        for _, process, _ in running:
            process.wait()


def launch(folder: Path, job: Job, start: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, str(ROOT / "run.py"), *job.overrides(start), f"seed={job.seed}", f"data.seed={job.seed}",
        f"store.dir={folder / 'store'}", f"hydra.run.dir={folder / job.name}",
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // AT_A_TIME))}
    with open(f"{folder / job.name}.log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)


def good_start(folder: Path) -> Path:
    """R3's start model, the same for every seed and no arm's own: SFT on a log of another seed in which everyone speaks."""
    place, rate = folder / "R3-start", choose(read_known(), "SFT")
    policy = place / "iteration_1" / "policy"
    if rate is None:
        sys.exit("R3 starts from an SFT iteration, and SFT is not tuned yet: --phases tune --arms SFT")
    if not policy.is_dir():
        overrides = merged(COMMON, ["evaluation.deployment.split=validation"], ARMS["SFT"], rate, ["seed=1000", "data.seed=1000"])
        subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *overrides, f"store.dir={folder / 'store'}", f"hydra.run.dir={place}"],
            check=True, cwd=ROOT,
        )  # fmt: skip
    return policy


def read_known() -> list[dict[str, Any]]:
    return read_jsonl(RUNS) if RUNS.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=lambda text: Path(text).resolve(), nargs="?")
    parser.add_argument("--phases", nargs="+", default=PHASES, choices=PHASES)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if not arguments.show and arguments.folder is None:
        parser.error("a folder for the runs is needed")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    latest = time.monotonic() + 60 * arguments.minutes
    for phase in [] if arguments.show else arguments.phases:
        while True:  # earlier runs decide on finalists, R1's number of seeds, settings for an old log
            before = len(read_known())
            start = good_start(arguments.folder) if phase == "R3" else Path()
            perform(arguments.folder, phase, arguments.arms, latest, start)
            if len(read_known()) == before or phase not in ("tune", "R1", "old"):
                break
    show(read_known())


if __name__ == "__main__":
    main()
