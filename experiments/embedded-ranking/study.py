"""Who wins on the simulated deployment, and is it the dissatisfaction? Six arms, tuned alike, then tested; one resumable command.

    python experiments/embedded-ranking/study.py FOLDER               all phases, one after the other
    python experiments/embedded-ranking/study.py FOLDER --minutes 60  begins nothing more after an hour; again: goes on
    python experiments/embedded-ranking/study.py FOLDER --show        the tables of what is there

Phases: `tune` (validation topics, four configurations an arm, two seeds), `test` (test topics, each arm's best, eight seeds, all
varied), `long` (DRIFT and SPIN, five iterations), `guided`, `calm` (what may stop a collapse). Every phase folder is a study with a
report of its own. `test` and what follows need all of `tune`: nobody looks at test topics before the choice is made.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from drift.report import html, tables  # noqa: E402
from drift.report.console import say, table  # noqa: E402
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
CALM = {
    "decaying-rate": ["train.rate_decay=0.6"],
    "larger-NLL": ["train.loss.nll=1"],
    "anchored": ["reference=start"],
    "refreshed-log": ["refresh_log=true"],
}
PLAIN = {"guided": "test", "calm": "long"}  # where the plain DRIFT is that these are compared with
SHOWN = ["run", "policy", "utility", "against start", "on topic", "words", "distinct-2", "missing ends", "perplexity under start"]
TUNE_SEEDS, TEST_SEEDS, FEW = (100, 101), tuple(range(8)), (0, 1, 2)


class Cell:
    """Runs of one arm that differ by their seeds: `<phase folder>/<name>-<seed>`."""

    def __init__(self, folder: Path, phase: str, name: str, overrides: list[str], seeds: tuple[int, ...]) -> None:
        self.folder, self.store, self.name, self.overrides, self.seeds = folder / phase, folder / "store", name, overrides, seeds

    def states(self) -> list[dict[str, Any]]:
        files = [self.folder / f"{self.name}-{seed}" / "run.json" for seed in self.seeds]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]

    @property
    def done(self) -> bool:
        return [state["status"] for state in self.states()] == ["finished"] * len(self.seeds)

    def run(self) -> None:
        seeds = ",".join(map(str, self.seeds))
        command = [
            sys.executable, str(ROOT / "run.py"), "-m", *self.overrides, f"seed={seeds}", "data.seed=${seed}",
            "train.signal_every=8", f"store.dir={self.store}", f"hydra.sweep.dir={self.folder}",
            f"hydra.sweep.subdir={self.name}-${{seed}}",
        ]  # fmt: skip
        say(f"\n=== {self.folder.name} / {self.name}: {' '.join(self.overrides)}, seeds {seeds}")
        subprocess.run(command, check=True)

    def gains(self, name: str) -> list[float]:
        """Of the policy of that name against the start model, per seed."""
        both = [tables.per_item(self.states(), policy, "utility") for policy in (name, "start")]
        return [paired([after], [before]).mean for after, before in zip(*both, strict=True)]


def tuning(folder: Path) -> dict[str, list[Cell]]:
    return {
        arm: [
            Cell(folder, "tune", f"{arm}-{i}", [*ARMS[arm], *config, "evaluation.split=validation"], TUNE_SEEDS)
            for i, config in enumerate(CONFIGS[arm])
        ]
        for arm in ARMS
    }


def last_policy(arm: str) -> str:
    return "warm start" if arm == "warm" else "iteration 2"


def best(arm: str, cells: list[Cell]) -> list[str]:
    """The arm's overrides with its best configuration on validation topics: the highest mean gain, the first of equals."""
    means = [sum(cell.gains(last_policy(arm))) / len(TUNE_SEEDS) for cell in cells]
    return [*ARMS[arm], *CONFIGS[arm][means.index(max(means))]]


def tested(folder: Path, tune: dict[str, list[Cell]]) -> dict[str, list[Cell]]:
    """The phases after tuning; each needs the choice."""
    chosen = {arm: best(arm, cells) for arm, cells in tune.items()}
    drift = chosen["DRIFT"]
    return {
        "test": [Cell(folder, "test", arm, overrides, TEST_SEEDS) for arm, overrides in chosen.items()],
        "long": [Cell(folder, "long", arm, [*chosen[arm], "iterations=5"], FEW) for arm in ("DRIFT", "SPIN")],
        "guided": [Cell(folder, "guided", "DRIFT-guided", [*drift, "guidance.share=1"], FEW)],
        "calm": [Cell(folder, "calm", name, _with([*drift, "iterations=5"], changes), FEW) for name, changes in CALM.items()],
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
    begun = time.monotonic()

    def run(cells: list[Cell]) -> None:
        for cell in cells:
            if not cell.done and not arguments.show:
                if (time.monotonic() - begun) / 60 > arguments.minutes:
                    sys.exit("Out of time; the same command goes on here.")
                cell.run()

    tune = tuning(arguments.folder)
    run([cell for cells in tune.values() for cell in cells])
    show_tuning(tune)
    if all(cell.done for cells in tune.values() for cell in cells):
        phases = tested(arguments.folder, tune)
        for cells in phases.values():
            run(cells)
        show_tests(arguments.folder, phases)


def show_tuning(tune: dict[str, list[Cell]]) -> None:
    rows = []
    for arm, cells in tune.items():
        for cell, config in zip(cells, CONFIGS[arm], strict=True):
            if cell.done:
                gains = cell.gains(last_policy(arm))
                values = {"gains": ", ".join(f"{gain:+.3f}" for gain in gains), "mean": f"{sum(gains) / len(gains):+.3f}"}
                rows.append({"arm": arm, "configuration": " ".join(config)} | values)
    if rows:
        say("\nTuning, validation topics: gain over the start model")
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
            groups["DRIFT"] = [state for state in plain if int(state["title"]["seed"]) in FEW]
        if compared := tables.comparisons({label: [ends(state) for state in states] for label, states in groups.items()}):
            table(compared)


def ends(state: dict[str, Any]) -> dict[str, Any]:
    """The run with its first and last policy alone: arms whose last ones have different names are compared at these."""
    scored = [point for point in state["points"] if "scores" in point]
    return state | {"points": [scored[0], *(point | {"name": "last policy"} for point in scored[1:][-1:])]}


def by_policy(label: str, states: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Utility and its gain, with what collapses first, of every policy."""
    return [{name: row.get(name, "-") for name in SHOWN} for row in tables.rows(label, states)]


if __name__ == "__main__":
    main()
