"""From settings (name=value) to the composed config. If Hydra refuses one, the error names the key, what was expected, and the
nearest valid key."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from drift import chosen
from drift.errors import UserError, nearest
from drift.overrides import check_choices, quote_paths, unreadable

HERE = Path(__file__).resolve().parent
CONF = next(at for at in (HERE / "conf", HERE.parent / "conf") if at.is_dir())  # in an installed wheel; in a clone
EVERY_KEY = "drift run --cfg job shows every key."
OF_DEVICES = ("device", "gpus", "gpu", "num_gpus", "accelerator", "num_nodes", "nodes", "world_size", "strategy")
DEVICES = (
    " devices=N shares one run among N GPUs of this machine; for several machines see docs/devices.md. Several runs can share one "
    "store: start each with its own CUDA_VISIBLE_DEVICES, or give the members of a sweep to a launcher (hydra/launcher=joblib)."
)
PLUGINS = {
    "hydra/launcher": {
        "joblib": "hydra-joblib-launcher",
        "submitit_slurm": "hydra-submitit-launcher",
        "submitit_local": "hydra-submitit-launcher",
        "ray": "hydra-ray-launcher",
        "ray_aws": "hydra-ray-launcher",
        "rq": "hydra-rq-launcher",
    },
    "hydra/sweeper": {
        "optuna": "hydra-optuna-sweeper",
        "ax": "hydra-ax-sweeper",
        "nevergrad": "hydra-nevergrad-sweeper",
    },
    "hydra/job_logging": {"colorlog": "hydra-colorlog"},
    "hydra/hydra_logging": {"colorlog": "hydra-colorlog"},
}


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The unchecked config from these settings (name=value); raises UserError for what Hydra can't parse or find."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    GlobalHydra.instance().clear()
    check_choices(arguments := quote_paths(overrides), CONF)
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", arguments)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error


def need_variables(config: DictConfig) -> None:
    """Refuses a value that names a variable or a key that is not there."""
    try:
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error


def explain(error: Exception) -> str:
    """Hydra's error about an override in our words, with the nearest valid key or option."""
    if isinstance(error, InterpolationResolutionError):
        return f"{error.full_key}: {str(error.msg or error).splitlines()[0]}. Set the variable, or give a value."
    text = str(error.__cause__ or error)
    if "is not in struct" in text:
        wrong = text.split("full_key: ")[1].splitlines()[0].strip()
        typed = str(error).split("'")[1] if "Could not override '" in str(error) else wrong
        known = [*all_keys(), *keys_of_options(typed.partition(".")[0])]
        hint = DEVICES if typed.rpartition(".")[2] in OF_DEVICES else chosen.belongs(wrong, CONF) or nearest(typed, known)
        return f"Unknown key {typed}.{hint} ({EVERY_KEY})"
    if missing := re.search(r"Could not (?:find|load) '([^']*)'", str(error)):
        name = missing[1]
        group, _, option = name.rpartition("/")
        if group in PLUGINS:
            return _plugin(group, option)
        hint = nearest(option, known := [file.stem for file in (CONF / group).glob("*.yaml")])
        listed = "" if "Known:" in hint else f" Known: {', '.join(sorted(known))}."
        return f"{group}={option}: there is no conf/{name}.yaml.{hint}{listed}"
    if "Could not override" in str(error):
        name = str(error).split("'")[1].split("@")[0]
        known = [*all_keys(), *(f.name for f in CONF.iterdir() if f.is_dir())]
        if place := chosen.belongs(name, CONF):
            return f"Unknown key {name}.{place} ({EVERY_KEY})"
        hint = DEVICES if name.rpartition(".")[2] in OF_DEVICES else nearest(name, known)
        return f"{str(error).splitlines()[0].rstrip('.')}.{hint} ({EVERY_KEY})"
    return unreadable(error)


def _plugin(group: str, option: str) -> str:
    """What to install for a launcher or sweeper of Hydra that is missing."""
    if option in PLUGINS[group]:
        return f"{group}={option} needs a plugin of Hydra that is not installed. Install it: pip install {PLUGINS[group][option]}."
    return f"{group}={option}: there is no such choice.{nearest(option, ['basic', *PLUGINS[group]])}"


def keys_of_options(group: str) -> list[str]:
    """The keys that the options of a config group set themselves, dotted."""
    options = [OmegaConf.load(file) for file in sorted((CONF / group).glob("*.yaml"))]
    return [f"{group}.{key}" for option in options if isinstance(option, DictConfig) for key in option.get(group, option)]


def all_keys() -> list[str]:
    """Every key of the default config, dotted."""

    def walk(node: Any, path: str) -> list[str]:
        if not isinstance(node, DictConfig):
            return [path]
        keys = [str(key) for key in node if not str(key).startswith("_")]
        below = [name for key in keys for name in walk(node._get_node(key), f"{path}.{key}".strip("."))]
        return [path, *below] if path else below

    return walk(compose(), "")
