"""Tests and measures this project on a GPU, with one command that takes under eight minutes on one H100. Downloads nothing and
writes no weights to disk.

    python experiments/gpu/check.py [--output FOLDER] [--parts tests training-7b …]
    python experiments/gpu/check.py --tiny          the same but for the tests, end to end, with tiny shapes on a CPU

Every part is a process of its own with a time limit, so that a failure costs only that part (`--tiny`: one process for all, which
saves time). What was not measured yet comes first. Results are printed and appended to FOLDER/results.jsonl at once; results.md is
a table of them.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {  # seconds of each part
    "tests": 110, "training-7b": 100, "qlora-14b": 75, "fsdp-0.5b": 45, "compile-0.5b": 75, "tokens-7b": 80, "checkpointing-7b": 70,
    "vllm-0.5b": 75, "sampling-7b": 65, "training-0.5b": 80, "sampling-0.5b": 45,
}  # fmt: skip
TOTAL = 450  # seconds
PYTEST = ["-m", "pytest", "-m", "gpu", "-n", "0", "-q", "--durations=8", "-p", "no:cacheprovider", "tests/test_gpu.py"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--output", type=Path, default=ROOT / "outputs/gpu")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--inside", nargs="+", choices=list(LIMITS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.inside:
        for part in arguments.inside:
            perform(part, arguments.tiny, partial(say, arguments.output, part))
        return
    begun, failed = time.monotonic(), []
    say(arguments.output, "machine", **machine())
    groups = [[part] for part in arguments.parts]
    if arguments.tiny:
        groups = [list({part.partition("-")[0]: part for part in arguments.parts if part != "tests"}.values())]
    for parts in groups:
        left = min(sum(LIMITS[part] for part in parts), TOTAL - (time.monotonic() - begun))
        started, how = time.monotonic(), run(parts, arguments, left)
        name = ", ".join(parts)
        say(arguments.output, name, ended=how, seconds=time.monotonic() - started)
        failed += [name] if how != "complete" else []
    (arguments.output / "results.md").write_text(table(arguments.output), encoding="utf-8")
    sys.exit(f"Failed: {', '.join(failed)}." if failed else 0)


def run(parts: list[str], arguments: argparse.Namespace, limit: float) -> str:
    """Performs parts in a process of their own; returns how it ended."""
    if limit < 5:
        return "not begun: no time left"
    command = [sys.executable, __file__, "--output", str(arguments.output), *(["--tiny"] if arguments.tiny else [])]
    command = [sys.executable, *PYTEST] if parts == ["tests"] else [*command, "--inside", *parts]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    finally:
        end(process)
    return "complete" if code == 0 else f"failed with exit code {code}"


def end(process: Any) -> None:
    """Ends a process and those that it has started: an engine of vLLM would keep the GPU's memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def perform(part: str, tiny: bool, say: Any) -> None:
    """One part in this process."""
    warnings.filterwarnings("ignore")
    what, size = part.split("-")
    size = "tiny" if tiny else size
    if what == "sampling":
        import sampling

        sampling.measure(size, say)
    elif what == "vllm":
        import vllm_engine

        vllm_engine.measure(size, say)
    elif what == "fsdp":
        import sharding

        sharding.measure(size, say)
    elif what == "tokens":
        import tokens

        tokens.measure(size, say)
    else:
        import training

        training.measure(training.CASES[what, size], say)


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
    """Prints a result, and appends it to results.jsonl. A number that is not finite was not measured: null."""
    shown = {name: rounded(value) if isinstance(value, float) else value for name, value in facts.items()}
    print(f"{part}: {', '.join(f'{name} {value}' for name, value in shown.items())}", flush=True)
    with open(output / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"part": part} | shown) + "\n")


def rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def table(output: Path) -> str:
    """All results so far as a table."""
    rows = [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = ["| part | side | kind | result |", "|---|---|---|---|"]
    for row in rows:
        first = [str(row.pop(name, "")) for name in ("part", "side", "kind")]
        lines.append(f"| {' | '.join(first)} | {', '.join(f'{name} {value}' for name, value in row.items())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
