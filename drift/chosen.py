"""Settings that the chosen parts do not take: an error if the user gave them, dropped if an experiment did. Settings that are taken
but have no effect get a note.

`given`: the command line as Hydra's overrides ("method=spin", "+data.seed=1"). What a yaml file sets is a default, and a default
that the other choices do not need is not a mistake."""

import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from drift.errors import UserError

LOGS = "data=messages, sharegpt and the like"


def names(given: Sequence[str]) -> list[str]:
    """The keys of the overrides; of a choice for a place (judge@filters.judge=…), the place."""
    return [item.lstrip("+~").partition("=")[0].rpartition("@")[2] for item in given]


def of_member(given: Sequence[str]) -> list[str]:
    """The overrides of a sweep's member that its parts must take. A judge is for those members whose method asks one."""
    return [
        item for item, name in zip(given, names(given), strict=True) if name != "judge" and not name.startswith("method.judge.")
    ]


def said(setting: str, given: Sequence[str]) -> str | None:
    """The key in `given` that is this setting or belongs to this group of settings, if any."""
    return next((name for name in names(given) if name == setting or name.startswith(f"{setting}.")), None)


def options(group: str, conf: Path) -> list[str]:
    return sorted(file.stem for file in (conf / group).glob("*.yaml"))


def takers(key: str, conf: Path) -> list[str]:
    """The options of a key's config group that have the key: method.guidance -> ["drift", "iterdpo", …]."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    group, _, below = key.partition(".")
    name = below.rpartition(".")[2]
    likely = [option for option in options(group, conf) if name and name in _text(conf / group / f"{option}.yaml", conf)]
    kept = GlobalHydra.instance().hydra  # needed by a sweep that is being checked
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        found = [option for option in likely if _has(compose("config", [f"{group}={option}"]), key)]
    GlobalHydra.instance().hydra = kept
    return found


def _text(file: Path, conf: Path) -> str:
    """The text of an option's yaml and of what it includes: options of the same group, and /NAME, conf/NAME.yaml."""
    text = file.read_text(encoding="utf-8")
    included = re.findall(r"(?m)^ +- (/?)(\w+)(?:@\S+)?$", text)
    return text + "".join(_text((conf if slash else file.parent) / f"{other}.yaml", conf) for slash, other in included)


def _has(config: DictConfig, key: str) -> bool:
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(config, above)
    return isinstance(node, DictConfig) and name in node.keys()  # noqa: SIM118 (`in node` is false for keys without a value)


def bringers(group: str, conf: Path) -> list[str]:
    """The choices that include a config group, or choose in one that is otherwise off: judge -> ["method=iterdpo"]."""
    off = re.search(rf"(?m)^ *- {group}: null\b", (conf / "config.yaml").read_text(encoding="utf-8"))
    brings = re.compile(rf"^ *- {'override ' if off else ''}/{group}(@\S+)?: ", re.MULTILINE)
    files = sorted(file for file in conf.glob("*/*.yaml") if brings.search(file.read_text(encoding="utf-8")))
    return [f"{file.parent.name}={file.stem}" for file in files]


def listed(items: Sequence[str]) -> str:
    return " or ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def belongs(key: str, conf: Path) -> str | None:
    """A sentence that says with which choice a key would be valid; None: with none."""
    group = key.partition(".")[0]
    if not (conf / group).is_dir():
        return None
    if found := takers(key, conf):
        return f" It goes with {group}={listed(found)}, not with the chosen option of {group}."
    if found := bringers(group, conf):
        return f" A {group} goes with {listed(found)}, and its settings are {found[0].partition('=')[0]}.{group}.…"
    return None


def leave_out(config: DictConfig, given: Sequence[str], conf: Path) -> None:
    """Removes settings by an experiment that the chosen option of a group does not take but other options do. Raises UserError if
    the user gave such a setting."""
    for group in [str(key) for key in config if (conf / str(key)).is_dir()]:
        node = config[group]
        if isinstance(node, DictConfig) and "_target_" not in node:
            _leave_out_options(group, node, given)
            continue
        if not isinstance(node, DictConfig):
            continue
        for key in set(node) - (_parameters(node["_target_"]) or set(node)):
            if takers(f"{group}.{key}", conf):
                if key in names(given):  # chosen as a group of its own: judge=verifier
                    raise UserError(f"Unknown key {key}.{belongs(key, conf)}")
                if name := said(f"{group}.{key}", given):
                    raise UserError(f"Unknown key {name}.{belongs(f'{group}.{key}', conf)}")
                with open_dict(node):
                    del node[key]


def _leave_out_options(group: str, node: DictConfig, given: Sequence[str]) -> None:
    """The same for a group with a list of chosen options: objective=[dpo,nll]."""
    for option in [str(key) for key in node]:
        if isinstance(node[option], DictConfig) and "_target_" not in node[option]:
            if name := said(f"{group}.{option}", given):
                taken = ",".join(str(key) for key in node)
                raise UserError(
                    f"Unknown key {name}: {option} is not among the chosen options of {group}. Add it: {group}=[{taken}]."
                )
            with open_dict(node):
                del node[option]


def _parameters(target: str) -> set[Any]:
    """The parameters of a `_target_`; none if it can't be imported (which is reported elsewhere)."""
    module, _, name = target.rpartition(".")
    try:
        return {"_target_", *inspect.signature(getattr(importlib.import_module(module), name)).parameters}
    except (ImportError, AttributeError, ValueError):
        return set()


def refuse(run: Any, given: Sequence[str]) -> None:
    """Raises UserError for settings of the miner and the intake that have no effect on the chosen data set."""
    if run.data.uses_policy:
        taken, why = {"leakage"}, f"Simulated users state their opinion, so there is no log to read. It is for {LOGS}."
    elif run.data.gives_records:
        taken = {"leakage", "max_records", "seed"}
        why = "It reads finished records, which are not classified or redacted again. Give it to `python -m drift mine`."
    else:
        return
    for setting in ("mine", *(f"intake.{item.name}" for item in fields(run.intake) if item.name not in taken)):
        if name := said(setting, given):
            raise UserError(f"{name} has no effect on this data set. {why}")


def idle(run: Any, given: Sequence[str]) -> list[str]:
    """Sentences about settings that were given but change nothing in this run."""
    once = "nothing: there is one iteration"
    unused = run.data.uses_policy and run.data.second_tries and not run.warmup_epochs
    cases: Iterable[tuple[str, bool, str]] = (
        ("previous_share", run.iterations < 2 and run.previous_share > 0, once),
        ("refresh_log", run.iterations < 2, once),
        ("train.rate_decay", run.iterations < 2 and run.train.rate_decay < 1, once),
        ("reference", run.iterations < 2 and not run.warmup_epochs, "nothing: the one iteration starts from the start model"),
        ("judge", run.method.judge is None, "nothing: this method ranks no replies"),
        ("method.rounds", run.examples_per_iteration is None, "nothing: examples_per_iteration=null goes through the records once"),
        ("intake.seed", not _chooses(run), "nothing: intake.max_records=null takes all"),
        ("data.second_tries", unused, "the log only: warmup_epochs=0 trains on no second try"),
    )
    return [f"{setting} changes {what}." for setting, holds, what in cases if holds and said(setting, given)]


def _chooses(run: Any) -> bool:
    return run.intake.max_records is not None or run.intake.records_per_conversation == "one"


def suited(model: str, experiment: str | None, conf: Path) -> list[str]:
    """A sentence if no experiment was chosen although there is one for the chosen model."""
    fitting = [
        file.stem
        for file in sorted((conf / "experiment").glob("*.yaml"))
        if re.search(rf"^ *- override /model: {re.escape(model)}$", file.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    if not fitting or experiment is not None:
        return []
    return [f"the default settings suit a small model; experiment={listed(fitting)} has settings for model={model}."]
