"""The settings that differ between the runs of a study. A config.yaml is read as text: its tags, interpolations and aliases are
never resolved, because the file may come from somebody else."""

from pathlib import Path
from typing import Any

from drift.report.foreign import SETTINGS, Malformed, Reader

MAX_NESTING = 30


def differing(grouped: dict[str, list[Path]], reader: Reader) -> list[dict[str, str]]:
    """A row per setting that differs, with a column per group of runs."""
    read = {
        label: [flat for place in places if (flat := _settings(place, reader)) is not None] for label, places in grouped.items()
    }
    everyone = [flat for flats in read.values() for flat in flats]
    return [
        {"setting": name}
        | {label: ", ".join(dict.fromkeys(flat.get(name, "-") for flat in flats)) for label, flats in read.items()}
        for name in dict.fromkeys(name for flat in everyone for name in flat)
        if len({flat.get(name, "-") for flat in everyone}) > 1
    ]


def _settings(place: Path, reader: Reader) -> dict[str, str] | None:
    import yaml

    text = reader.text(place, SETTINGS)
    try:
        return flat_yaml(text) if text else None
    except (yaml.YAMLError, Malformed) as error:
        reader.skip(place / SETTINGS, error)
        return None


def flat_yaml(text: str) -> dict[str, str]:
    """Dotted path -> value as it is written in a yaml text (a list: its items). Raises Malformed for aliases and deep nesting."""
    import yaml

    flat: dict[str, list[str]] = {}
    open_nodes: list[dict[str, Any]] = []  # the mappings and lists around the event: their path, and a mapping's current key
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise Malformed("it has aliases")
        if isinstance(event, yaml.CollectionEndEvent):
            open_nodes.pop()
        elif isinstance(event, yaml.NodeEvent):
            above = open_nodes[-1] if open_nodes else {"path": "", "mapping": False, "key": None}
            if above["mapping"] and above["key"] is None:
                above["key"] = event.value if isinstance(event, yaml.ScalarEvent) else "?"
                if not isinstance(event, yaml.ScalarEvent):
                    raise Malformed("one of its keys is not text")
                continue
            path = f"{above['path']}.{above['key']}".strip(".") if above["mapping"] else above["path"]
            above["key"] = None
            if isinstance(event, yaml.ScalarEvent):
                flat.setdefault(path, []).append(event.value)
                continue
            open_nodes.append({"path": path, "mapping": isinstance(event, yaml.MappingStartEvent), "key": None})
            if isinstance(event, yaml.SequenceStartEvent):
                flat.setdefault(path, [])
            if len(open_nodes) > MAX_NESTING:
                raise Malformed(f"it is nested more than {MAX_NESTING} deep")
    return {path: ", ".join(values) for path, values in flat.items()}
