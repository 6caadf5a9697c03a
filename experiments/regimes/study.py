"""When does dissatisfaction win? Nine arms, tuned alike, in six regimes of feedback on one simulated deployment; resumable.

    python experiments/regimes/study.py FOLDER                  every phase; stopped, the same command goes on
    python experiments/regimes/study.py FOLDER --phases tune R1 only these
    python experiments/regimes/study.py FOLDER --minutes 60     begins nothing more after an hour
    python experiments/regimes/study.py --show                  the tables of the kept runs

Every finished run becomes a line of experiments/regimes/runs.jsonl (tuning runs too), and a run that is there is not run again: a
fresh machine goes on where another stopped. FOLDER holds what can be thrown away: the runs and their store.

`tune`: validation topics, regime R1, four configurations an arm, two seeds; the best mean gain is the arm's configuration in every
regime (configs.json). `R0` to `R5`: test topics, fresh seeds, which vary the log, the prompts and training. R1's first eight seeds
decide how many there are (`wanted`): the rule was written down before they ran.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from drift.console import say  # noqa: E402
from drift.records import read_jsonl, write_json, write_jsonl  # noqa: E402

HERE = Path(__file__).parent
RUNS, CONFIGS = HERE / "runs.jsonl", HERE / "configs.json"
COMMON = ["iterations=1", "examples_per_iteration=120", "data.num_prompts=300", "evaluation.deployment.num_samples=2"]
ARMS = {
    "DRIFT": ["method=drift"],
    "length-matched random": ["method=random_logged", "method.match=length"],
    "SFT": ["method=sft", "method.rounds=16"],
    "SPIN": ["method=spin", "method.rounds=16"],
    "DRIFT x 3": ["method=drift", "method.num_samples=3"],
    "random": ["method=random_logged"],
    "IterDPO": ["method=iterdpo"],
    "KTO": ["method=unpaired"],
    "SDPO": ["method=sdpo", "method.rounds=16"],
}
PREFERENCE = [
    [f"train.learning_rate={rate}", f"objective.nll.weight={nll}"]
    for rate, nll in ((4e-4, 0.1), (8e-4, 0.1), (1.6e-3, 0.1), (8e-4, 0.4))
]
RATES = [[f"train.learning_rate={rate}"] for rate in (4e-4, 8e-4, 1.6e-3, 3e-3)]
WORDS_ALONE = ["train.learning_rate=0.0005", 'method.context=" {feedback}"']  # no text around the user's words
HINDSIGHT = [*([f"train.learning_rate={rate}"] for rate in (2e-4, 5e-4, 2e-3)), WORDS_ALONE]
CHOICES = dict.fromkeys(ARMS, PREFERENCE) | {"SFT": RATES, "KTO": RATES, "SDPO": HINDSIGHT}
SCARCE = ["data.praise_rate=0.125"]
REGIMES = {
    "R1": SCARCE,
    "R0": [],
    "R2": [
        "data.num_prompts=500",
        "data.complaint_rate=0.5",
        "data.praise_rate=0.2",
        "data.false_praise=0.25",
        "data.unfounded=0.17",
    ],
    "R3": ["data.num_prompts=480", *SCARCE],
    "R4": ["data.deployed.temperature=1.2", *SCARCE],
    "R5": ["iterations=3", "refresh_log=true", *SCARCE],
}
PRIMARY, RIVALS = "DRIFT", ("length-matched random", "SFT", "SPIN")
TUNE_SEEDS, TEST_SEEDS, FIRST = (1100, 1101), tuple(range(1200, 1220)), 8
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
        number = CHOICES[self.arm].index(list(self.config))
        return f"{self.phase}-{self.arm.replace(' ', '-')}-{number}-{self.seed}"

    def overrides(self, start: Path) -> list[str]:
        regime = REGIMES["R1" if self.phase == "tune" else self.phase]
        split = ["split=validation", "num_prompts=84"] if self.phase == "tune" else ["split=test", "num_prompts=96"]
        model = ["model=pretrained", f"model.path={start}"] if self.phase == "R3" else []
        return merged(COMMON, [f"evaluation.deployment.{item}" for item in split], model, ARMS[self.arm], regime, self.config)


def merged(*parts: Any) -> list[str]:
    """Overrides, a later one in the place of an earlier one of its key."""
    found = {item.partition("=")[0]: item for part in parts for item in part}
    return list(found.values())


def jobs(phase: str, known: list[dict[str, Any]]) -> list[Job]:
    """The phase's runs, primary arms first, so that a stopped study has the question's answer."""
    if phase == "tune":
        return [
            Job(phase=phase, arm=arm, config=tuple(config), seed=seed)
            for arm in ARMS
            for config in CHOICES[arm]
            for seed in TUNE_SEEDS
        ]
    configs = json.loads(CONFIGS.read_text(encoding="utf-8"))
    seeds = TEST_SEEDS[: wanted(known) if phase == "R1" else FIRST]
    groups = [[PRIMARY, *RIVALS], [arm for arm in ARMS if arm not in (PRIMARY, *RIVALS)]]
    return [Job(phase=phase, arm=arm, config=tuple(configs[arm]), seed=seed) for arms in groups for seed in seeds for arm in arms]


def wanted(known: list[dict[str, Any]]) -> int:
    """Seeds of R1: FIRST, then as many as give 80 % power for +.08 in the first step of Holm's three, at the largest standard
    deviation of a primary difference over the first eight; at most twenty."""
    differences = [gaps(known, "R1", PRIMARY, rival, TEST_SEEDS[:FIRST]) for rival in RIVALS]
    if min(map(len, differences)) < FIRST:
        return FIRST
    return max(FIRST, seeds_for(0.08, max(map(spread, differences)), alpha=0.05 / len(RIVALS), most=len(TEST_SEEDS)))


def seeds_for(effect: float, deviation: float, *, alpha: float, most: int) -> int:
    """The least number of seeds with power .8 in a two-sided paired t test; at most `most`."""
    return next((n for n in range(3, most) if power(effect, deviation, n, alpha) >= 0.8), most)


def power(effect: float, deviation: float, seeds: int, alpha: float) -> float:
    """Of a two-sided paired t test, by the noncentral t distribution."""
    from scipy.stats import nct, t

    limit, shift = t.ppf(1 - alpha / 2, seeds - 1), effect / deviation * seeds**0.5
    return float(nct.sf(limit, seeds - 1, shift) + nct.cdf(-limit, seeds - 1, shift))


def spread(values: list[float]) -> float:
    from statistics import stdev

    return stdev(values)


def last(row: dict[str, Any]) -> str:
    return list(row["points"])[-1]


def gain(row: dict[str, Any], metric: str = "utility") -> float:
    return row["points"][last(row)][metric] - row["points"]["start"][metric]


def gains(known: list[dict[str, Any]], phase: str, arm: str, config: list[str] | None = None) -> dict[int, float]:
    """Seed -> gain over the start model."""
    rows = [row for row in known if (row["phase"], row["arm"]) == (phase, arm) and config in (None, row["config"])]
    return {row["seed"]: gain(row) for row in rows}


def gaps(known: list[dict[str, Any]], phase: str, one: str, other: str, seeds: Any) -> list[float]:
    """Paired differences of two arms' gains, by seed."""
    first, second = gains(known, phase, one), gains(known, phase, other)
    return [first[seed] - second[seed] for seed in seeds if seed in first and seed in second]


def choose(known: list[dict[str, Any]]) -> dict[str, list[str]] | None:
    """Arm -> its configuration with the best mean gain over all of TUNE_SEEDS, the first of equals; None while a run is missing."""
    best = {}
    for arm in ARMS:
        found = [gains(known, "tune", arm, config) for config in CHOICES[arm]]
        if any(set(one) != set(TUNE_SEEDS) for one in found):
            return None
        means = [sum(one.values()) / len(one) for one in found]
        best[arm] = CHOICES[arm][means.index(max(means))]
    return best


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


def perform(folder: Path, phase: str, latest: float, start: Path) -> None:
    """Runs what the phase lacks, AT_A_TIME together. A run that fails is told of, and the others go on."""
    known = read_known()
    done = {(row["phase"], row["arm"], tuple(row["config"]), row["seed"]) for row in known}
    waiting = [job for job in jobs(phase, known) if job.key not in done]
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
    place, rate = folder / "R3-start", json.loads(CONFIGS.read_text(encoding="utf-8"))["SFT"]
    policy = place / "iteration_1" / "policy"
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
    parser.add_argument("--phases", nargs="+", default=["tune", *REGIMES], choices=["tune", *REGIMES])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if not arguments.show and arguments.folder is None:
        parser.error("a folder for the runs is needed")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    latest = time.monotonic() + 60 * arguments.minutes
    for phase in [] if arguments.show else arguments.phases:
        if phase != "tune" and not CONFIGS.is_file():
            sys.exit(f"{phase} needs {CONFIGS}, which `tune` makes once all of its runs are there.")
        while True:  # R1 may want more seeds once eight are there
            before = len(read_known())
            start = good_start(arguments.folder) if phase == "R3" else Path()
            perform(arguments.folder, phase, latest, start)
            if len(read_known()) == before or phase != "R1":
                break
        if phase == "tune" and not CONFIGS.is_file() and (best := choose(read_known())):
            write_json(CONFIGS, best)
    from tables import show

    show(read_known())


if __name__ == "__main__":
    main()
