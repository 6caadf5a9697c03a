"""Which settings the runs of a study do not have in common."""

from pathlib import Path
from typing import Any


def differing(grouped: dict[str, list[Path]]) -> list[dict[str, str]]:
    """A row per setting whose value is not the same everywhere, a column per group of runs: their values."""
    from omegaconf import OmegaConf

    read = {
        label: [
            _flat(OmegaConf.to_container(OmegaConf.load(place / "config.yaml")))
            for place in places
            if (place / "config.yaml").is_file()
        ]
        for label, places in grouped.items()
    }
    everyone = [flat for flats in read.values() for flat in flats]
    return [
        {"setting": name}
        | {label: ", ".join(dict.fromkeys(flat.get(name, "-") for flat in flats)) for label, flats in read.items()}
        for name in dict.fromkeys(name for flat in everyone for name in flat)
        if len({flat.get(name, "-") for flat in everyone}) > 1
    ]


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {path: "null" if value is None else str(value)}
    found: dict[str, str] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{path}.{key}" if path else str(key))
    return found
