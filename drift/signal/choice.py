"""From the command line to runs that differ in their method: `method=drift,spin method.num_samples=1,3`.

As in `drift run -m`, a setting may have several values, but only `method` and its settings: the log and the model are the same for
all. A setting of a method goes to those methods that take it. Without `method=`, all methods are measured."""

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

from drift import chosen
from drift.compose import CONF, compose
from drift.config import build
from drift.errors import UserError

GROUP = "method"


def runs_of(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(name -> run, name -> the sentence that refuses it). Raises UserError if every method is refused, or for a setting with
    several values that is not a method's, or that no method takes."""
    names, common, own = split(overrides)
    runs: dict[str, Any] = {}
    refused: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        taken = {key: values for key, values in own.items() if takes(name, key)}
        used |= taken.keys()
        for values in product(*taken.values()):
            settings = [f"{key}={value}" for key, value in zip(taken, values, strict=True)]
            several = [s for s, key in zip(settings, taken, strict=True) if len(taken[key]) > 1]
            label = " ".join([name, *(setting.removeprefix(f"{GROUP}.") for setting in several)])
            given = [*common, f"{GROUP}={name}", *settings]
            try:
                runs[label] = build(compose(given), given)
            except UserError as error:
                refused[label] = str(error)
    if unused := sorted(own.keys() - used):
        raise UserError(f"Unknown key {unused[0]}.{chosen.belongs(unused[0], CONF) or ''} None of {', '.join(names)} takes it.")
    if not runs:
        raise UserError(next(iter(refused.values())))
    return runs, refused


def split(overrides: Sequence[str]) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """(the methods, the settings that all share, the values of each setting of a method or of a part that only some have)."""
    brought = {group.name for group in CONF.iterdir() if group.is_dir() and chosen.bringers(group.name, CONF)}
    methods, common, own = chosen.options(GROUP, CONF), list[str](), dict[str, list[str]]()
    for item in overrides:
        key, values = parsed(item)
        if key == GROUP:
            methods = values
        elif key.startswith(f"{GROUP}.") or key in brought:
            own[key] = values
        elif len(values) > 1:
            raise UserError(f"{item}: only method and method.… may have several values here; the log and the model are shared.")
        else:
            common.append(item)
    return methods, common, own


def parsed(item: str) -> tuple[str, list[str]]:
    """The key of a setting, and its values as text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    from drift.overrides import quote_paths, unreadable

    try:
        (override,) = OverridesParser.create().parse_overrides(quote_paths([item]))
    except OverrideParseException as error:
        raise UserError(unreadable(error)) from error
    key = override.get_key_element().lstrip("+~")
    if override.is_sweep_override():
        return key, [str(value) for value in override.sweep_string_iterator()]
    return key, [item.partition("=")[2]]


def takes(method: str, key: str) -> bool:
    """Whether a method has a setting, or brings a group of settings."""
    from omegaconf import OmegaConf

    return OmegaConf.select(composed(method), key if key.startswith(f"{GROUP}.") else f"{GROUP}.{key}") is not None


@cache
def composed(method: str) -> Any:
    return compose([f"{GROUP}={method}"])
