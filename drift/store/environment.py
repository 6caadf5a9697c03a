"""The environment, which may change a stage's numbers without being an input: recorded in the manifest, compared on reuse."""

import platform
import resource
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """Commit, versions, device and threads."""
    import torch

    result = {"commit": _commit(), "python": platform.python_version(), "machine": platform.machine()}
    for package in ("torch", "transformers", "peft", "lightning", "tokenizers"):
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            result[package] = "absent"
    result["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    result["threads"] = str(torch.get_num_threads())
    return result


def differences(made: Mapping[str, str]) -> list[str]:
    """What differs between another environment and this one: "torch 2.11.0 -> 2.13.0"."""
    return [f"{part} {made[part]} -> {here}" for part, here in environment().items() if made[part] != here]


def peak_gib() -> float:
    """This process's peak memory so far; GPU memory if there is a GPU."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)  # Linux counts in KiB


def _commit() -> str:
    here = Path(__file__).resolve().parent
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return described.stdout.strip() or "no git"
