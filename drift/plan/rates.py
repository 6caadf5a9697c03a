"""The rates of this machine: those that `drift calibrate` has measured here, or cautious figures stated below.

They are kept in the cache folder, in `calibration.json`: precision -> the rates, with the device and the threads that they hold
for."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drift.files import replace
from drift.model.cached import cache
from drift.plan.work import Rates

# Guesses, which no run has shown: a CPU at 40 GFLOP/s, a GPU at 100 TFLOP/s (a tenth of an H100's rate in bfloat16).
STATED = {
    "cpu": Rates(forward=4e10, adapted=3e10, lora=3e10, full=3e10, decode=1e10, decode_adapted=6e9, update=1e8, batch=1e8,
                 lora_batch=5e8, files=2e8, source="guessed"),
    "cuda": Rates(forward=1e14, adapted=8e13, lora=8e13, full=8e13, decode=5e12, decode_adapted=3e12, update=1e10, batch=1e10,
                  lora_batch=1e11, files=1e9, source="guessed"),
}  # fmt: skip


def kept_file(cache_dir: str | None = None) -> Path:
    return cache(cache_dir) / "calibration.json"


def rates_for(precision: str, device: str, place: dict[str, str], file: Path) -> Rates:
    """The rates at a precision ("float32", "bfloat16") on a device ("cpu", "cuda"). `place`: the device's name and the threads;
    figures of another place are not used."""
    found = read(file).get(precision, {})
    if found.get("place") == place:
        return Rates(**found["rates"])
    return STATED[device]


def keep(precision: str, rates: Rates, place: dict[str, str], file: Path) -> None:
    """Adds or replaces the rates of a precision."""
    kept = read(file) | {precision: {"place": place, "rates": asdict(rates)}}
    replace(file, json.dumps(kept, indent=1).encode())


def read(file: Path) -> dict[str, Any]:
    """What is kept; nothing if the file is missing or damaged, or from a version with other rates."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        names = set(asdict(STATED["cpu"]))
        return {kind: entry for kind, entry in found.items() if set(entry["rates"]) == names and "place" in entry}
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {}
