"""Tests and measures this project on a GPU, with one command that takes under eight minutes on one H100. Downloads nothing and
writes no weights to disk.

    python experiments/gpu/check.py [--output FOLDER] [--parts tests training-7b …]
    python experiments/gpu/check.py --tiny          the same, end to end, with tiny shapes on a CPU

Every part is a process of its own with a time limit, so that a failure costs only that part. Results are printed and appended to
FOLDER/results.jsonl at once.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"tests": 130, "training-7b": 120, "sampling-7b": 65, "training-0.5b": 90, "sampling-0.5b": 45}  # seconds of each part
TOTAL = 450  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--output", type=Path, default=ROOT / "outputs/gpu")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--part", choices=list(LIMITS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        perform(arguments.part, arguments.tiny, partial(say, arguments.output, arguments.part))
        return
    begun, failed = time.monotonic(), []
    say(arguments.output, "machine", **machine())
    for part in arguments.parts:
        left = min(LIMITS[part], TOTAL - (time.monotonic() - begun))
        started, how = time.monotonic(), run(part, arguments, left)
        say(arguments.output, part, ended=how, seconds=time.monotonic() - started)
        failed += [part] if how != "complete" else []
    sys.exit(f"Failed: {', '.join(failed)}." if failed else 0)


def run(part: str, arguments: argparse.Namespace, limit: float) -> str:
    """Performs a part in a process of its own; returns how it ended."""
    if limit < 5:
        return "not begun: no time left"
    command = [sys.executable, __file__, "--part", part, "--output", str(arguments.output), *(["--tiny"] if arguments.tiny else [])]
    if part == "tests":
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "gpu",
            "-n",
            "0",
            "-q",
            "--durations=8",
            "-p",
            "no:cacheprovider",
            "tests/test_gpu.py",
        ]
    try:
        code = subprocess.run(
            command, timeout=limit, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        ).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    return "complete" if code == 0 else f"failed with exit code {code}"


def perform(part: str, tiny: bool, say: Any) -> None:
    warnings.filterwarnings("ignore")
    what, size = part.split("-")
    if what == "training":
        import training

        case = training.CASES["tiny" if tiny else size]
        training.measure(case, say)
    else:
        import sampling

        sampling.measure("tiny" if tiny else size, say)


def machine() -> dict[str, Any]:
    import torch
    import transformers

    cuda = torch.cuda.is_available()
    return {
        "card": torch.cuda.get_device_name() if cuda else "none",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }


def say(output: Path, part: str, **facts: Any) -> None:
    """Prints a result, and appends it to results.jsonl."""
    shown = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in facts.items()}
    print(f"{part}: {', '.join(f'{name} {value}' for name, value in shown.items())}", flush=True)
    with open(output / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"part": part} | shown) + "\n")


if __name__ == "__main__":
    main()
