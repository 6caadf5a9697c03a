"""Lets the loggers that log whole studies log one: at the end of a sweep, or on request."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from drift.compose import compose
from drift.config import build_part
from drift.errors import UserError
from drift.parts import StudyLogger
from drift.records import digest
from drift.report.foreign import SETTINGS


def after_sweep(folder: Path, members: Sequence[Path]) -> None:
    """`members`: the folders of the runs, whose loggers are asked, each once."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # with libyaml several times as fast
    settings = [yaml.load((member / SETTINGS).read_text(encoding="utf-8"), loader)["logger"] for member in members]
    for one in {digest(one): one for one in settings}.values():
        logger: Any = build_part(OmegaConf.create({"logger": one}).logger, "logger")
        if isinstance(logger, StudyLogger):
            logger.study(folder)


def on_request(folder: Path, overrides: Sequence[str]) -> None:
    """`overrides`: the choice of a logger and its settings, logger=wandb logger.project=NAME."""
    for item in overrides:
        if not item.startswith(("logger=", "logger.")):
            raise UserError(f"{item}: `drift report` takes the settings of a logger only: logger=wandb logger.mode=offline.")
    logger: Any = build_part(compose(overrides).logger, "logger")
    if not isinstance(logger, StudyLogger):
        raise UserError(f"{' '.join(overrides)}: this logger logs single runs only. Expected logger=wandb.")
    logger.study(folder)
