"""A sweep as a whole: checks all members before the first one runs, owns a folder, and lists the members that failed."""

import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from drift import chosen
from drift.compose import CONF, explain
from drift.config import build
from drift.errors import UserError, writable
from drift.folders import owned
from drift.masking import mask

SEPARATE_RUNS = (
    "\nOther members are valid. A sweep gives its settings to every member (a judge only to those whose method asks one). Start "
    "members with other settings as separate runs in one folder (hydra.run.dir=FOLDER/NAME), and compare them with `drift report "
    "FOLDER`."
)
_folder = ExitStack()  # held until the sweep ends; not in the callback, which launchers send to other processes


class Members(Callback):
    """Hydra calls this when a sweep begins and ends. Errors end the program with `sys.exit`, because Hydra only warns about an
    exception in a callback."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        members = list(_checked(config, kwargs["config_name"]))
        try:
            owned_folder = _folder.enter_context(owned(Path(config.hydra.sweep.dir), members, "hydra.sweep.dir"))
        except UserError as error:
            sys.exit(f"\n{error}")
        print(f"Sweep of {len(members)} members in {owned_folder}", flush=True)
        print(f"  its report is built at the end, and earlier by: drift report {shlex.quote(str(owned_folder))}", flush=True)
        quoted = str(owned_folder).replace("\\", "\\\\").replace("'", "\\'")
        with read_write(config.hydra):
            config.hydra.sweep.dir = str(owned_folder)  # for Hydra; the next line is for members, which are composed again
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from drift.report.foreign import members_of

        folder = Path(config.hydra.sweep.dir)
        members = members_of(folder)
        states = [member.state for member in members]
        report_error = _report(folder, [member.folder for member in members]) if members else None
        _folder.close()
        failed = [", ".join(f"{name}={value}" for name, value in s.title.items()) for s in states if s.status == "failed"]
        if failed:
            sys.exit(f"\n{len(failed)} of {len(states)} members failed (see above, and the report): {'; '.join(failed)}")
        if report_error:
            sys.exit(f"\n{report_error}")


def _report(folder: Path, members: Sequence[Path]) -> str | None:
    """Writes the report of the whole study once, not after every member, and has it logged. Returns the error message if that
    failed."""
    from drift.logger import study
    from drift.report import closing, html

    try:
        with writable(folder, "hydra.sweep.dir"):
            html.study_report(folder)
        closing.sweep(folder)
        study.after_sweep(folder, members)
    except UserError as error:
        return str(error)
    except Exception:
        traceback.print_exc()
        return f"The report could not be built. Try again with `drift report {folder}`; the runs themselves are kept."
    return None


def _checked(config: DictConfig, name: str) -> Iterator[str]:
    """The resolved configs of all members of a sweep, after all of them have been checked."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    basic = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"
    if config.hydra.sweeper._target_ != basic:  # another one chooses its members during the sweep
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        yield str(config.hydra.overrides.task) + OmegaConf.to_yaml(own)
        return
    wanted = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*wanted, *config.hydra.overrides.task])
    right, wrong, judges, bases = [], [], [], dict[tuple[str, ...], DictConfig]()
    members = BasicSweeper.split_arguments(overrides, None)[0]
    for member in members:
        try:
            composed = composed_of(name, parser.parse_overrides(list(member)), bases)
            judges.append(build(composed, chosen.of_member(member)).method.judge)
            right.append(OmegaConf.to_yaml(composed, resolve=True))
        except (UserError, HydraException) as error:
            wrong.append((error, mask(" ".join(member))))
    if not wrong and all(judge is None for judge in judges) and chosen.said("judge", members[0]):
        right, wrong = [], [(UserError(f"Unknown key judge.{chosen.belongs('judge', CONF)}"), mask(" ".join(members[0])))]
    if wrong:
        error, member = wrong[0]
        text = explain(error) if isinstance(error, HydraException) else error
        sys.exit(f"\n{text}\nIn the member {member}; the sweep was not started.{SEPARATE_RUNS if right else ''}")
    BasicSweeper.validate_batch_is_legal = _known_by_now  # type: ignore[method-assign]
    yield from right


def composed_of(name: str, overrides: Sequence[Override], bases: dict[tuple[str, ...], DictConfig]) -> DictConfig:
    """What Hydra composes for a member. Members with the same choices (of groups, of keys to add or delete) share a composition,
    kept in `bases`, to which the values of the others are applied, as Hydra does it: a sweep over seeds is composed once."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra

    groups = GlobalHydra.instance().config_loader()
    values = [one for one in overrides if one.type is OverrideType.CHANGE and not groups.get_group_options(one.key_or_group)]
    choices = tuple(str(one.input_line) for one in overrides if one not in values)
    if choices not in bases:
        bases[choices] = compose(name, overrides=list(choices))
    composed = deepcopy(bases[choices])
    try:
        for one in values:
            OmegaConf.update(composed, one.key_or_group, one.value(), merge=True)
    except OmegaConfBaseException:
        return compose(name, overrides=[str(one.input_line) for one in overrides])  # raises the error with Hydra's explanation
    return composed


def _known_by_now(sweeper: Any, batch: Any) -> None:
    """Hydra would compose all members once more, only to see whether it can."""
