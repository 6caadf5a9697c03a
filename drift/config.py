"""The checks of the whole composed config before anything heavy loads: names, types, ranges, paths, model, chat template.

The constructors are the schema: a key is valid if its `_target_` takes it. Everything here runs in a second or two, without torch,
lightning or transformers.
"""

import importlib
import inspect
import math
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from drift import chosen
from drift.compose import CONF, need_variables
from drift.errors import UserError, nearest
from drift.parts import Checked, Placed
from drift.sampler.contracts import Selective

LARGEST = 2**63  # no whole number that libraries take is as large
DEFAULT = {"objective": "[dpo,nll]", "evaluation": "[deployment]"}


def build(config: DictConfig, given: Sequence[str] = ()) -> Any:
    """The checked `Run` of a composed config; raises UserError with the key, what was expected and what to do. `given`: the user's
    overrides. Removes settings by an experiment for parts that are not chosen."""
    from hydra.utils import instantiate

    need_values(config, "")
    chosen.leave_out(config, given, CONF)
    for group in DEFAULT:
        if not config.get(group):
            raise UserError(f"{group}=[]: at least one {group} is needed. The default is {group}={DEFAULT[group]}.")
        for name, part in config[group].items():
            if not isinstance(part, DictConfig) or "_target_" not in part:
                kept = ",".join(str(other) for other in config[group] if other != name) or DEFAULT[group].strip("[]")
                raise UserError(f"{group}.{name} is no {group}. To go without it, leave it out of the list: {group}=[{kept}].")
    check_node(config, "")
    run = instantiate(config, _convert_="all")
    chosen.refuse(run, given)
    check_parts(run, "")
    check_together(run)
    return run


def build_part(config: DictConfig, setting: str) -> Any:
    """One part of a run, checked in the same way. `setting`: where it stands, for messages."""
    from hydra.utils import instantiate

    need_values(config, setting)
    check_node(config, setting)
    part = instantiate(config, _convert_="all")
    check_parts(part, setting)
    return part


def need_values(config: DictConfig, setting: str) -> None:
    need_variables(config)
    if missing := sorted(OmegaConf.missing_keys(config)):
        inner = missing[0].removeprefix(str(config._get_full_key(""))).strip(".")  # they are named from the root on
        name = f"{setting}.{inner}".strip(".")
        raise UserError(f"{name} has no value yet. Give one: {name}=VALUE.")


def check_parts(part: Any, setting: str) -> None:
    """Lets every part that has a check look at its settings."""
    for where, inner in parts(part, setting):
        if isinstance(inner, Placed):
            inner.place(where)
        if isinstance(inner, Checked):
            inner.check()


def parts(part: Any, setting: str) -> Iterator[tuple[str, Any]]:
    """A part and all parts inside it, outer ones first, with where each stands: method, method.judge, …"""
    if is_dataclass(part):
        yield setting, part
        for item in fields(part):
            yield from parts(getattr(part, item.name), f"{setting}.{item.name}".strip("."))
    elif isinstance(part, list | tuple | dict):
        for name, item in part.items() if isinstance(part, dict) else enumerate(part):
            yield from parts(item, f"{setting}.{name}".strip("."))


def check_together(run: Any) -> None:
    """Checks that involve several parts."""
    if not run.data.uses_policy:
        run.intake.check_packages()
        run.mine.check_packages()
    if run.warmup_epochs and run.data.uses_policy and not run.data.second_tries:
        raise UserError(
            f"warmup_epochs={run.warmup_epochs} learns from complaints whose second try satisfied the user, which this deployment "
            "does not collect. Add data.second_tries=true, or set warmup_epochs=0."
        )
    if run.refresh_log and not run.data.uses_policy:
        raise UserError("refresh_log=true asks users for new feedback, which a log can't give. Expected data=deployment.")
    for name in ("rounds", "num_samples"):
        if (value := getattr(run.method, name, 1)) < 1:
            raise UserError(f"method.{name}={value}: expected at least 1.")
    check_objectives(run)
    check_judges(run)
    check_sampled(run)
    if run.sampler.max_new_tokens >= run.train.max_tokens:
        raise UserError(
            f"sampler.max_new_tokens={run.sampler.max_new_tokens} leaves no room for a prompt in "
            f"train.max_tokens={run.train.max_tokens}."
        )


def check_sampled(run: Any) -> None:
    """Refuses a sampler that can't load the policies that the run trains and samples from."""
    adapter, evaluated = run.train.adapter, any(evaluation.samples for evaluation in run.evaluation.values())
    if not isinstance(run.sampler, Selective):
        return
    if run.data.uses_policy and run.data.deployed.policy is not None:
        run.sampler.check_policy("full")
    if run.iterations > 1 or (run.iterations and (evaluated or run.warmup_epochs)) or (run.warmup_epochs and evaluated):
        run.sampler.check_policy("full" if adapter is None else "adapter" if adapter.quantization == "none" else "nf4")


def check_judges(run: Any) -> None:
    """Refuses judges that need a known truth where the data set has none."""
    asked = [("judge", "method.judge", run.method.judge, "method=drift,spin, which rank no replies")]
    asked += [("judge@filters.judge", "filters.judge", run.filters.judge, "filters.judge=null")]
    for group, place, judge, without in asked:
        if judge is not None and judge.needs_truth and not run.data.knows_truth:
            raise UserError(
                f"{place} ({judge.label}) checks replies against a known truth, which this data set does not have. Choose a judge "
                f"that reads them: a reward model, {group}=reward_model {place}.path=DIRECTORY_OR_HUB_ID, or a language model on "
                f"a server, {group}=llm {place}.endpoint.url=URL {place}.endpoint.model=NAME. Or go without: {without}."
            )


def check_objectives(run: Any) -> None:
    """Refuses objectives that need other examples than the method makes."""
    told = [name for name, objective in run.objective.items() if objective.hindsight]
    if told and not run.method.hindsight:
        raise UserError(
            f"objective={told[0]} learns from what a user said after a reply, which this method's examples leave out. Use "
            "method=sdpo, which puts it in, or another objective: [dpo,nll] for pairs, [kto] for single replies."
        )
    if run.method.hindsight and not told:
        raise UserError(
            f"objective=[{','.join(run.objective)}] does not learn from what a user said after a reply, which this method is for. "
            "Use objective=[sdpo], or method=unpaired for single replies with their labels alone."
        )
    if told and run.warmup_epochs:
        raise UserError(
            f"warmup_epochs={run.warmup_epochs} trains on pairs, which objective={told[0]} can't learn from. Set warmup_epochs=0."
        )
    compares = [name for name, objective in run.objective.items() if objective.paired]
    if compares and not run.method.paired:
        raise UserError(
            f"objective={compares[0]} compares two replies to a prompt, but this method makes examples with one. Use "
            "objective=[kto] (liked and disliked replies) or objective=[nll] (liked ones), or method=drift, which makes pairs."
        )


def check_node(node: Any, path: str) -> None:
    """Checks every `_target_` node against its constructor's signature, recursively."""
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
        raise UserError(f"{path}={value}: expected {_name(hint)}, got {_kind(value)}.{_suggest(value, hint, path)}")


def _fits(value: Any, hint: Any) -> bool:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or (isinstance(value, DictConfig) and "_target_" in value):
        return True  # nested parts are checked by their own signature
    if origin is typing.Literal:
        return value in options
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in options)
    if origin in (list, tuple) or hint in (list, tuple):
        items = isinstance(value, (list, tuple, ListConfig))
        return items and all(_fits(item, option) for item in value for option in options[:1])
    if origin is dict or hint is dict:
        return isinstance(value, (dict, DictConfig))
    if hint in (float, int):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
        return whole or (hint is float and isinstance(value, float) and math.isfinite(value))
    return not inspect.isclass(hint) or isinstance(value, hint)


def _name(hint: Any) -> str:
    options = typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        return "a group of settings ({name: value})"
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, options))
    if typing.get_origin(hint) in (list, tuple):
        return f"a list ([a, b]; each item {_name(options[0])})"
    if options:
        return " or ".join("null" if option is type(None) else _name(option) for option in options)
    name = str(hint.__name__)
    return {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}.get(name, name)


def _kind(value: Any) -> str:
    names = {"ListConfig": "a list", "DictConfig": "a group of settings", "NoneType": "null", "int": "a whole number"}
    return names.get(type(value).__name__, type(value).__name__)


def _suggest(value: Any, hint: Any, path: str) -> str:
    group = path.rpartition(".")[2]
    if isinstance(value, str) and (CONF / group / f"{value}.yaml").is_file():
        return f" To choose a {group}: {group}@{path}={value}."
    if typing.get_origin(hint) is typing.Literal:
        return nearest(str(value), [str(option) for option in typing.get_args(hint)])
    return ""
