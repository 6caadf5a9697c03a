"""What this project does on a GPU, in one command of under eight minutes on one H100. Nothing is downloaded; no weights
are written to disk.

    python experiments/gpu/check.py [--output FOLDER] [--parts tests training-7b …]
    python experiments/gpu/check.py --tiny          the same end to end with tiny shapes, on a CPU

Every part is a process of its own with a time limit: one that fails costs only itself. Results are printed and appended to
FOLDER/results.jsonl as they come.
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
LIMITS = {"tests": 170, "training-7b": 150, "sampling-7b": 60, "training-0.5b": 100, "sampling-0.5b": 45}  # seconds of each part
TOTAL = 475  # seconds


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
    try:
        code = subprocess.run(
            command, timeout=limit, env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        ).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    return "complete" if code == 0 else f"failed with exit code {code}"


def perform(part: str, tiny: bool, say: Any) -> None:
    if part == "tests":
        import pytest

        raise SystemExit(
            pytest.main(["-m", "gpu", "-n", "0", "-q", "--durations=8", "-p", "no:cacheprovider", str(ROOT / "tests/test_gpu.py")])
        )
    warnings.filterwarnings("ignore")
    what, size = part.split("-")
    if what == "training":
        import training

        big = size == "7b"
        training.measure(
            "tiny" if tiny else size,
            adapter=big,
            pairs=8 if tiny else 32 if big else 128,
            pairs_per_step=4 if tiny else 16 if big else 32,
            ours=["tokens=8192,checkpointing=0"] if tiny else ["tokens=8192,checkpointing=0", "tokens=16384,checkpointing=1"],
            peers=["batch=4,checkpointing=1"]
            if tiny
            else ["batch=4,checkpointing=1", "batch=8,checkpointing=1", "batch=4,checkpointing=0"],
            say=say,
        )
    else:
        import sampling

        sampling.measure(
            "tiny" if tiny else size,
            prompts=8 if tiny else 64,
            new_tokens=8 if tiny else 128,
            batches=[4] if tiny else [16, 64],
            say=say,
        )


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
