"""The checks before anything heavy loads: names, types, ranges, paths, model, chat template of the whole composed config.

The constructors are the schema: a key is right if the `_target_` it belongs to takes it. Everything here runs in a second or
two, without torch, lightning or transformers.
"""

import importlib
import inspect
import sys
import types
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from drift.errors import UserError, nearest


def build(config: DictConfig) -> Any:
    """The checked `Run` of a composed config; raises UserError naming the key, what was expected and what to do."""
    from hydra.utils import instantiate

    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]} has no value yet. Give one: {missing[0]}=VALUE.")
    check_node(config, "")
    run = instantiate(config, _convert_="all")
    for part in (run, *(getattr(run, item.name) for item in fields(run))):
        if hasattr(part, "check"):
            part.check()
    check_together(run)
    return run


class Members(Callback):
    """Hydra calls this when a sweep begins: all its members are checked before the first one runs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        from hydra import compose
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.override_parser.overrides_parser import OverridesParser

        wanted = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        overrides = parser.parse_overrides([*wanted, *config.hydra.overrides.task])
        for member in BasicSweeper.split_arguments(overrides, None)[0]:
            try:
                build(compose(kwargs["config_name"], overrides=list(member)))
            except UserError as error:  # ends the program here: Hydra would only warn of an exception in a callback
                sys.exit(f"\n{error}\nIn the member {' '.join(member)}; nothing was begun.")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from drift.report import closing

        closing.sweep(Path(config.hydra.sweep.dir))


def check_together(run: Any) -> None:
    """What no part can see alone."""
    if not run.data.uses_policy:
        run.intake.check_packages()
        run.mine.check_packages()
    if run.warmup_epochs and run.data.uses_policy and not run.data.second_tries:
        raise UserError(
            f"warmup_epochs={run.warmup_epochs} learns from complaints with a second try that satisfied, which this deployment "
            "does not collect. Add data.second_tries=true, or set warmup_epochs=0."
        )
    judge = getattr(run.method, "judge", None)
    if judge is not None and judge.needs_truth and not run.data.knows_truth:
        raise UserError(
            "This method's judge checks replies against a known truth, which this data set does not have. "
            "Use data=deployment, or methods that need no judge: method=drift,spin."
        )
    if run.sampler.max_new_tokens >= run.train.max_tokens:
        raise UserError(
            f"sampler.max_new_tokens={run.sampler.max_new_tokens} leaves no room for a prompt in "
            f"train.max_tokens={run.train.max_tokens}."
        )


def check_node(node: Any, path: str) -> None:
    """Compares every `_target_` node with its constructor's signature, recursively."""
    if isinstance(node, ListConfig):
        for i, item in enumerate(node):
            check_node(item, f"{path}[{i}]")
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node:
        _check_target(node, path)
    for key in node:
        check_node(node[key], f"{path}.{key}" if path else str(key))


def _check_target(node: DictConfig, path: str) -> None:
    target = _import(node["_target_"], path)
    parameters = inspect.signature(target).parameters
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    prefix = f"{path}." if path else ""
    for key in node:
        if str(key).startswith("_"):
            continue
        if key not in parameters:
            raise UserError(f"Unknown key {prefix}{key}.{nearest(str(key), parameters)}")
        if key in hints:
            _check_type(node[key], hints[key], f"{prefix}{key}")
    for name, parameter in parameters.items():
        if name not in node and parameter.default is inspect.Parameter.empty and parameter.kind == inspect.Parameter.KEYWORD_ONLY:
            raise UserError(f"Missing key {prefix}{name}, which {node['_target_']} needs. Add it: +{prefix}{name}=VALUE.")


def _import(target: str, path: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path or 'config'}._target_={target} can't be imported: {error}.") from error


def _check_type(value: Any, hint: Any, path: str) -> None:
    if not _fits(value, hint):
        raise UserError(f"{path}={value}: expected {_name(hint)}, got {type(value).__name__}.{_suggest(value, hint)}")


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if hint is Any or isinstance(value, (DictConfig, ListConfig)):
        return True  # nested parts are checked by their own signature
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not inspect.isclass(hint) or isinstance(value, hint)


def _name(hint: Any) -> str:
    options = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, options))
    if options:
        return " or ".join("null" if option is type(None) else _name(option) for option in options)
    name = str(hint.__name__)
    return {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}.get(name, name)


def _suggest(value: Any, hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return nearest(str(value), [str(option) for option in typing.get_args(hint)])
    return ""


def explain(error: Exception, conf: Path) -> str:
    """Hydra's own complaint about an override, with the nearest valid key or option added."""
    text = str(error.__cause__ or error)
    if "is not in struct" in text:
        wrong = text.split("full_key: ")[1].splitlines()[0].strip()
        known, group = all_keys(conf), wrong.partition(".")[0]
        hint = f" It belongs to another option of {group} than the one chosen." if wrong in known else nearest(wrong, known)
        return f"Unknown key {wrong}.{hint} (python run.py --cfg job shows every key.)"
    if "Could not find" in str(error):
        name = str(error).split("Could not find '")[1].split("'")[0]
        group, _, option = name.rpartition("/")
        known = [file.stem for file in (conf / group).glob("*.yaml")]
        return f"{group}={option}: there is no {conf.name}/{name}.yaml.{nearest(option, known)} Known: {', '.join(sorted(known))}."
    if "Could not override" in str(error):
        name = str(error).split("'")[1].split("@")[0]
        return f"{str(error).splitlines()[0]}{nearest(name, [*all_keys(conf), *(f.name for f in conf.iterdir() if f.is_dir())])}"
    return str(error)


def all_keys(conf: Path) -> list[str]:
    """Every key of the default config, dotted."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("config")

    def walk(node: Any, path: str) -> list[str]:
        if not isinstance(node, DictConfig):
            return [path]
        keys = [str(key) for key in node if not str(key).startswith("_")]
        below = [name for key in keys for name in walk(node._get_node(key), f"{path}.{key}".strip("."))]
        return [path, *below] if path else below

    return walk(config, "")
