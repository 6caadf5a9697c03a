"""Collects the wheels that a GPU machine without a network needs, for Python 3.12 on Linux x86-64.

    python experiments/gpu/collect_wheels.py FOLDER

It asks the package index of this machine's pip. The versions are those installed here, so that both machines run the same code;
torch, transformers, lightning, accelerate and the other requirements of datasets and TRL must be installed there already.
"""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PURE = ("antlr4-python3-runtime",)  # there is no wheel of it, so one is built
WHEELS = ("hydra-core", "omegaconf", "gguf", "rich", "peft", "trl", "datasets", "dill", "multiprocess", "bitsandbytes")
PLATFORM = ("--python-version", "3.12", "--implementation", "cp", "--platform", "manylinux2014_x86_64", "--platform", "any")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    for name in PURE:
        subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), f"{name}=={version(name)}"], check=True)
    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    subprocess.run([*pip, "download", "--no-deps", "--only-binary=:all:", *PLATFORM, "-d", str(folder), *wanted], check=True)
    for wheel in sorted(folder.glob("*.whl")):
        print(f"{wheel.stat().st_size / 1e6:6.2f} MB  {wheel.name}")


if __name__ == "__main__":
    main()
