"""The speed scripts run end to end on the tiny model: all sides do the work and every figure is printed. None is judged here."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """A small array in ShareGPT's form."""
    file = tmp_path_factory.mktemp("chats") / "chats.json"
    turns = ("How are you today?", "Well, thank you.", "And who are you?", "A tiny model, no more.")
    rows = [
        {"id": str(i), "conversations": [{"from": ("human", "gpt")[k % 2], "value": f"{t} {i}"} for k, t in enumerate(turns)]}
        for i in range(8)
    ]
    file.write_text(json.dumps(rows))
    return file


@pytest.mark.parametrize(
    ("script", "arguments", "sides"),
    [
        (
            "training.py",
            ["--pairs", "4", "--adapter", "--peer", "batch=1,sorted=1,precomputed=1"],
            ["batch=1,sorted=1,precomputed=1"],
        ),
        ("sampling.py", ["--prompts", "3", "--samples", "2", "--max-new-tokens", "8"], ["generate"]),
    ],
    ids=["training", "sampling"],
)
def test_a_comparison_runs_and_prints_speed_and_memory_of_every_side(tiny, chats, script, arguments, sides):
    common = ["--model", str(tiny), "--data", str(chats), "--repeats", "1"]
    printed = output(script, *common, *arguments)
    for side in sides:
        for what in ("speed", "peak memory"):
            ratio = re.search(rf"{what}, ours / {side}: ([\d.]+) \[", printed)
            assert ratio and float(ratio.group(1)) > 0, printed


def test_the_deviation_of_another_packing_is_printed_for_both_precisions(tiny, chats):
    printed = output("packing.py", "--model", str(tiny), "--data", str(chats), "--pairs", "4")
    found = dict(re.findall(r"^(float32|bfloat16): at most ([\d.e-]+)", printed, re.MULTILINE))
    assert found.keys() == {"float32", "bfloat16"} and float(found["float32"]) < 2e-4, printed


def test_waits_are_timed_up_to_the_first_training_step(cache, tmp_path):
    printed = output("startup.py", str(tmp_path), *SMALL, "iterations=1", f"model.cache_dir={cache}", "--repeats", "1")
    for what in ("--help", "a mistyped key", "the first training step"):
        assert re.search(rf"^{what}: [\d.]+ s", printed, re.MULTILINE), printed
    assert len(list((tmp_path / "store" / "train").glob("*/manifest.json"))) == 1, "the timed run has trained"


def output(script, *arguments):
    """What a script of experiments/speed prints."""
    command = [sys.executable, f"experiments/speed/{script}", *arguments]
    environment = os.environ | {"CI": "1"}  # keeps TRL from sending telemetry
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
