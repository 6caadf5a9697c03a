"""Does the signal of the examples, measured before any training, say which arm will gain? For every arm and regime of the study.

    python experiments/regimes/prediction.py FOLDER     FOLDER: that of study.py, whose logs and samples are taken from its store
    python experiments/regimes/prediction.py --show     the table and the correlations of what is kept here

Every measurement (a regime, a seed, its arms; `drift signal` does the same for one log) becomes a line of
experiments/regimes/signals.jsonl, and one that is there is not made again. R5 is left out: its first round is R1.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from figures import choose, gains, prediction  # noqa: E402
from settings import ARMS, REGIMES, TEST_SEEDS  # noqa: E402
from study import HERE, Job, good_start, read_known  # noqa: E402
from tables import shown  # noqa: E402

from drift.console import say, table  # noqa: E402
from drift.records import read_jsonl, write_jsonl  # noqa: E402

SIGNALS = HERE / "signals.jsonl"
SEEDS, MEASURED = TEST_SEEDS[:2], [regime for regime in REGIMES if regime != "R5"]
KEPT = ("examples", "records", "noise", "shorter", "signal", "signal_error", "predicted", "snr", "lacks")
CONTROLS = ("length-matched random", "random")


def runs_of(folder: Path, regime: str, seed: int, arms: dict[str, list[str]], start: Path) -> dict[str, Any]:
    """Arm -> its run, as the study starts it. `arms`: arm -> its configuration."""
    from drift.compose import compose
    from drift.config import build

    runs = {}
    for arm, config in arms.items():
        job = Job(phase=regime, arm=arm, config=tuple(config), seed=seed)
        given = [*job.overrides(start), f"seed={seed}", f"data.seed={seed}", f"store.dir={folder / 'store'}"]
        runs[arm] = build(compose(given), given)
    return runs


def measured(folder: Path, regime: str, seed: int, arms: dict[str, list[str]]) -> dict[str, Any]:
    """The line of a regime's log of a seed."""
    from drift.signal.measure import measure
    from drift.store import used_together

    runs = runs_of(folder, regime, seed, arms, good_start(folder) if regime == "R3" else Path())
    users = used_together([run.store for run in runs.values()], folder / f"signal-{regime}-{seed}")
    found = measure(runs, num_prompts=60, num_replies=6, num_splits=20)
    for user in users:
        user.end(finished=True)
    rows = {arm: {key: row[key] for key in KEPT if key in row} for arm, row in found["methods"].items()}
    return {"phase": regime, "seed": seed, "log": found["log"], "truth": found["truth"], "arms": rows}


def show(known: list[dict[str, Any]], signals: list[dict[str, Any]]) -> None:
    """Signal-to-noise ratio and gain of every arm in every regime, and how well the one orders the other."""
    cells = {regime: {} for regime in MEASURED}
    lines = []
    for regime in MEASURED:
        rows = [line["arms"] for line in signals if line["phase"] == regime]
        for arm in ARMS:
            ratios = [row[arm]["snr"] for row in rows if "snr" in row.get(arm, {})]
            if ratios and (won := gains(known, regime, arm)):
                cells[regime][arm] = sum(ratios) / len(ratios), sum(won.values()) / len(won)
                row = {"regime": regime, "arm": arm, "SNR by seed": ", ".join(f"{ratio:+.2f}" for ratio in ratios)}
                lines.append(row | {"SNR": f"{cells[regime][arm][0]:+.2f}", "gain": f"{cells[regime][arm][1]:+.3f}"})
    if not lines:
        return
    table(lines)
    without = {regime: {arm: cell for arm, cell in row.items() if arm not in CONTROLS} for regime, row in cells.items()}
    say("")
    for name, chosen in (("all arms", cells), ("without the two controls", without)):
        for part, some in (("all regimes", chosen), *((regime, {regime: row}) for regime, row in chosen.items())):
            pairs = [cell for row in some.values() for cell in row.values()]
            if len(pairs) > 2:
                found = shown(prediction(pairs), digits=2)
                say(f"rank correlation of SNR and gain, {name}, {part}: {found} ({len(pairs)} cells)")
    two_logs(signals)


def two_logs(signals: list[dict[str, Any]]) -> None:
    """How far the two seeds' ratios agree, and how far signals are from theory, in their standard errors."""
    rows = {
        (line["phase"], arm, line["seed"]): row
        for line in signals
        for arm, row in line["arms"].items()
        if arm in ARMS and "snr" in row
    }
    first, second = SEEDS
    both = [key[:2] for key in rows if key[2] == first and (*key[:2], second) in rows]
    if len(both) > 2:
        found = shown(prediction([(rows[*key, first]["snr"], rows[*key, second]["snr"]) for key in both]), digits=2)
        say(f"rank correlation of the SNR of the two seeds' logs: {found} ({len(both)} cells)")
        off = [(row["signal"] - row["predicted"]) / row["signal_error"] for row in rows.values()]
        say(f"signal less predicted, in standard errors: mean {mean(off):+.1f}, SD {stdev(off):.1f} ({len(off)} measurements)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=lambda text: Path(text).resolve(), nargs="?")
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if not arguments.show and arguments.folder is None:
        parser.error("a folder for the runs is needed")
    signals, known = read_jsonl(SIGNALS) if SIGNALS.is_file() else [], read_known()
    for seed, regime in [] if arguments.show else [(seed, regime) for seed in SEEDS for regime in MEASURED]:
        if any((line["phase"], line["seed"]) == (regime, seed) for line in signals):
            continue
        arms = {arm: found for arm in ARMS if gains(known, regime, arm) and (found := choose(known, arm)) is not None}
        if not arms:
            continue
        say(f"{regime}, seed {seed}: {', '.join(arms)}")
        signals.append(measured(arguments.folder, regime, seed, arms))
        write_jsonl(SIGNALS, signals)
    show(known, signals)


if __name__ == "__main__":
    main()
