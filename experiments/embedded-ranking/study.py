"""Who wins on the simulated deployment, and is it the dissatisfaction? Six arms, tuned alike, then tested; one resumable command.

    python experiments/embedded-ranking/study.py FOLDER               all phases; stopped, the same command goes on
    python experiments/embedded-ranking/study.py FOLDER --minutes 60  begins nothing more after an hour
    python experiments/embedded-ranking/study.py FOLDER --show        the tables of what is there

Two runs go at a time, on half the cores each. Each writes what it says to <run folder>.log.

Phases: `tune` (validation topics, four configurations an arm, two seeds), `test` (test topics, each arm's best, eight seeds, all
varied), `long` (DRIFT and SPIN, five iterations), `guided`, `calm` (what may stop a collapse). Every phase folder is a study with a
report of its own. `test` and what follows need all of `tune`, whose choice is FOLDER/chosen.json: nobody looks at test topics
before it is made. Where that file lies there already, copied from another machine, tuning is left out; kept.py takes over runs.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from drift.console import say, table  # noqa: E402
from drift.errors import UserError  # noqa: E402
from drift.records import write_json  # noqa: E402
from drift.report import html, members, tables  # noqa: E402
from drift.report.compare import compare  # noqa: E402
from drift.report.foreign import members_of  # noqa: E402
from drift.report.state import RUN, RunState  # noqa: E402
from drift.report.statistics import paired  # noqa: E402

ARMS = {
    "DRIFT": ["method=drift"],
    "SPIN": ["method=spin"],
    "IterDPO": ["method=iterdpo"],
    "random": ["method=random_logged"],
    "SFT": ["method=spin", "train.loss.sigmoid=0"],  # SPIN's pairs, of which NLL sees the liked reply only
    "warm": ["method=drift", "iterations=0", "warmup_epochs=5", "data.second_tries=true"],
}
PREFERENCE = [[f"train.learning_rate={rate}", f"train.loss.nll={nll}"] for rate in (3e-4, 5e-4) for nll in (0.1, 0.4)]
CONFIGS = {arm: PREFERENCE for arm in ARMS} | {
    "SFT": [[f"train.learning_rate={rate}", "train.loss.nll=1"] for rate in (1e-4, 2.5e-4, 5e-4, 1e-3)]
}
FIRST_LOG = "refresh_log=false"  # as on real logs; what the default was before `calm` was measured
CALM = {
    "decaying-rate": ["train.rate_decay=0.6"],
    "larger-NLL": ["train.loss.nll=1"],
    "anchored": ["reference=start"],
    "refreshed-log": ["refresh_log=true"],
}
PLAIN = {"guided": "test", "calm": "long"}  # where the plain DRIFT is that these are compared with
SHOWN = ["run", "policy", "utility", "against start", "on topic", "words", "distinct-2", "missing ends", "perplexity under start"]
# The test seeds are none that was ever looked at: the quickstart's settings were chosen on logs and prompts of lower ones.
TUNE_SEEDS, TEST_SEEDS, FEW, TWO = (100, 101), tuple(range(200, 208)), (200, 201, 202), (200, 201)
AT_A_TIME = 2


class Cell:
    """Runs of one arm that differ by their seeds: `<phase folder>/<name>-<seed>`."""

    def __init__(self, folder: Path, phase: str, name: str, overrides: list[str], seeds: tuple[int, ...]) -> None:
        self.folder, self.store, self.name, self.overrides, self.seeds = folder / phase, folder / "store", name, overrides, seeds

    def place(self, seed: int) -> Path:
        return self.folder / f"{self.name}-{seed}"

    def state(self, seed: int) -> RunState | None:
        """Of the finished run of that seed; one with other settings is as good as none."""
        wanted = dict(override.split("=", 1) for override in self.overrides)
        runs = members_of(self.place(seed)) if (self.place(seed) / RUN).is_file() else []
        found = (run.state for run in runs if run.state.status == "finished" and wanted.items() <= run.state.title.items())
        return next(found, None)

    def states(self) -> list[RunState]:
        return [state for seed in self.seeds if (state := self.state(seed)) is not None]

    @property
    def done(self) -> bool:
        return len(self.states()) == len(self.seeds)

    def start(self, seed: int) -> subprocess.Popen[bytes]:
        """Begins the run of that seed, on its share of the cores."""
        command = [
            sys.executable, str(ROOT / "run.py"), FIRST_LOG, *self.overrides, f"seed={seed}", f"data.seed={seed}",
            f"store.dir={self.store}", f"hydra.run.dir={self.place(seed)}",
        ]  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.place(seed), ignore_errors=True)  # of other settings: a run would take a numbered folder beside it
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // AT_A_TIME))}
        with open(f"{self.place(seed)}.log", "wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def gains(self, name: str) -> list[float]:
        """Of the policy of that name against the start model, per seed."""
        both = [members.per_item(self.states(), policy, "utility") for policy in (name, "start")]
        return [paired([after], [before]).mean for after, before in zip(*both, strict=True)]


def tuning(folder: Path) -> dict[str, list[Cell]]:
    return {
        arm: [
            Cell(folder, "tune", f"{arm}-{i}", [*ARMS[arm], *config, "evaluation.deployment.split=validation"], TUNE_SEEDS)
            for i, config in enumerate(CONFIGS[arm])
        ]
        for arm in ARMS
    }


def last_policy(arm: str) -> str:
    return "warm start" if arm == "warm" else "iteration 2"


def best(arm: str, cells: list[Cell]) -> list[str]:
    """The arm's best configuration on validation topics: the highest mean gain, the first of equals."""
    means = [sum(cell.gains(last_policy(arm))) / len(TUNE_SEEDS) for cell in cells]
    return CONFIGS[arm][means.index(max(means))]


def choice(file: Path) -> dict[str, list[str]]:
    """Arm -> the configuration that tuning chose for it."""
    found = json.loads(file.read_text(encoding="utf-8"))
    for arm, configs in CONFIGS.items():
        if found.get(arm) not in configs:
            raise UserError(f"{file}: {arm} is {found.get(arm)}. Expected one of {configs}; without the file, tuning chooses.")
    return found


def tested(folder: Path, choice: dict[str, list[str]]) -> dict[str, list[Cell]]:
    """The phases after tuning; each needs the choice."""
    chosen = {arm: [*ARMS[arm], *choice[arm]] for arm in ARMS}
    drift = chosen["DRIFT"]
    return {
        "test": [Cell(folder, "test", arm, overrides, TEST_SEEDS) for arm, overrides in chosen.items()],
        "long": [Cell(folder, "long", arm, [*chosen[arm], "iterations=5"], FEW) for arm in ("DRIFT", "SPIN")],
        "guided": [Cell(folder, "guided", "DRIFT-guided", [*drift, "method.guidance.share=1"], TWO)],
        "calm": [Cell(folder, "calm", name, _with([*drift, "iterations=4"], changes), TWO) for name, changes in CALM.items()],
    }


def _with(overrides: list[str], changes: list[str]) -> list[str]:
    """The changes take the place of overrides of the same keys."""
    keys = {change.partition("=")[0] for change in changes}
    return [override for override in overrides if override.partition("=")[0] not in keys] + changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    latest = time.monotonic() + (0 if arguments.show else 60 * arguments.minutes)
    tune, made = tuning(arguments.folder), arguments.folder / "chosen.json"
    cells = [] if made.is_file() else [cell for cells in tune.values() for cell in cells]
    perform(cells, latest)
    show_tuning(arguments.folder, tune)
    if all(cell.done for cell in cells):
        if not made.is_file():
            write_json(made, {arm: best(arm, cells) for arm, cells in tune.items()})
        phases = tested(arguments.folder, choice(made))
        cells = [cell for cells in phases.values() for cell in cells]
        perform(cells, latest)
        show_tests(arguments.folder, phases)
    if not all(cell.done for cell in cells):
        said = "\nNot everything is measured yet; the same command goes on."
        say(said) if time.monotonic() > latest else sys.exit(said)


def perform(cells: list[Cell], latest: float) -> None:
    """Runs what is not finished, AT_A_TIME together; begins none after `latest` (of the monotonic clock). A run that fails is told
    of, and the others go on."""
    waiting = [(cell, seed) for cell in cells for seed in cell.seeds if cell.state(seed) is None]
    running: dict[str, tuple[subprocess.Popen[bytes], Path, float]] = {}
    begun, count, ended = time.monotonic(), len(waiting), 0
    try:
        while running or (waiting and time.monotonic() < latest):
            while waiting and len(running) < AT_A_TIME and time.monotonic() < latest:
                cell, seed = waiting.pop(0)
                running[f"{cell.folder.name}/{cell.name}, seed {seed}"] = cell.start(seed), cell.place(seed), time.monotonic()
            time.sleep(1)
            for name, (process, place, since) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                ended, now = ended + 1, time.monotonic()
                left = (count - ended) * (now - begun) / ended / 60
                how = f"FAILED, see {place}.log" if process.returncode else f"{(now - since) / 60:.1f} min"
                say(f"{name}: {how}; {ended} of {count}, about {left:.0f} min left")
    finally:
        for process, _, _ in running.values():
            process.terminate()  # what its finished stages made stays in the store
        for process, _, _ in running.values():
            process.wait()


def show_tuning(folder: Path, tune: dict[str, list[Cell]]) -> None:
    rows = []
    for arm, cells in tune.items():
        for cell, config in zip(cells, CONFIGS[arm], strict=True):
            if cell.done:
                gains = cell.gains(last_policy(arm))
                values = {"gains": ", ".join(f"{gain:+.3f}" for gain in gains), "mean": f"{sum(gains) / len(gains):+.3f}"}
                rows.append({"arm": arm, "configuration": " ".join(config)} | values)
    if rows:
        say(f"\ntune: {html.study_report(folder / 'tune')}\nGain over the start model on validation topics")
        table(rows)


def show_tests(folder: Path, phases: dict[str, list[Cell]]) -> None:
    for phase, cells in phases.items():
        groups = {cell.name: cell.states() for cell in cells if cell.states()}
        if not groups:
            continue
        report = html.study_report(folder / phase)
        say(f"\n{phase}: {report}")
        table([row for label, states in groups.items() for row in by_policy(label, states)])
        if phase in PLAIN:
            plain = next(cell for cell in phases[PLAIN[phase]] if cell.name == "DRIFT").states()
            groups["DRIFT"] = [state for state in plain if int(state.title["seed"]) in TWO]
        if compared := tables.comparisons(compare(groups)):
            table(compared)


def by_policy(label: str, states: list[RunState]) -> list[dict[str, str]]:
    """Utility and its gain, with what collapses first, of every policy."""
    return [{name: row.get(name, "-") for name in SHOWN} for row in tables.rows(label, states)]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
