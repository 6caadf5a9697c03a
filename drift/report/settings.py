"""Which settings the members of a study do not have in common."""

from pathlib import Path
from typing import Any


def differing(members: dict[Path, dict[str, Any]]) -> list[dict[str, str]]:
    """A row per setting whose value is not the same everywhere, a column per member."""
    from omegaconf import OmegaConf

    read = {
        place: _flat(OmegaConf.to_container(OmegaConf.load(place / "config.yaml")))
        for place in members
        if (place / "config.yaml").is_file()
    }
    names = dict.fromkeys(name for flat in read.values() for name in flat)
    return [
        {"setting": name} | {place.name: flat.get(name, "-") for place, flat in read.items()}
        for name in names
        if len({flat.get(name, "-") for flat in read.values()}) > 1
    ]


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {path: "null" if value is None else str(value)}
    found: dict[str, str] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{path}.{key}" if path else str(key))
    return found
