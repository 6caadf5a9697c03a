"""`plan=true`, and what is said before every run that would not be short."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from drift.console import say
from drift.model import adapter, precision
from drift.model.architecture import config_of
from drift.model.files import check_config
from drift.model.pretrained import Pretrained, local_directory
from drift.model.template import check_arguments
from drift.plan import fit, text
from drift.plan.device import Device
from drift.plan.forecast import Forecast, continued, forecast
from drift.plan.found import stages_of
from drift.plan.rates import kept_file, rates_for
from drift.plan.shape import shape_of
from drift.sampler.transformers import Transformers


@dataclass(frozen=True, kw_only=True)
class Unloaded:
    """A model of which a plan needs no more than `config.json`: the other files need not be there yet."""

    path: str
    revision: str | None
    template: dict[str, Any]

    def check(self) -> None:
        check_arguments(self.template)
        self.directory()

    def directory(self) -> Path:
        directory = local_directory(self.path, self.revision, "model.path", only="config.json")
        if not (directory / adapter.CONFIG).is_file():
            check_config(directory)
        return directory


def without_weights(config: DictConfig) -> DictConfig:
    """The config with a model that needs only its `config.json`."""
    pretrained, unloaded = (f"{kind.__module__}.{kind.__qualname__}" for kind in (Pretrained, Unloaded))
    if config.model._target_ == pretrained:
        config = OmegaConf.merge(config, {"model": {"_target_": unloaded}})  # type: ignore[assignment]
    return config


def of_run(run: Any, device: Device) -> Forecast | None:
    """The forecast of a run on a device; None: models of its type, or its sampler, are not known here."""
    if not isinstance(run.sampler, Transformers):  # what another one keeps in memory is its own affair
        return None
    directory = run.model.directory()
    base = adapter.base_of(directory).directory if (directory / adapter.CONFIG).is_file() else directory
    shape = shape_of(config_of(base))
    if shape is None:
        return None
    run = replace(run, train=continued(run.train, directory, shape))
    rates = rates_for(precision.resolve(run.train.precision), device.kind, device.place, kept_file())
    return forecast(run, shape, device, rates)


def show(run: Any, device: Device) -> None:
    """Prints the plan of a run; raises UserError if it can't fit."""
    found = of_run(run, device)
    if found is None:
        say("No plan: the layers of this type of model, or what its sampler needs, are not known.")
        return
    for line in [*text.table(found), text.in_store(stages_of(run))]:
        say(line)
    fit.refuse_too_large(run, found)


def before(run: Any, device: Device) -> None:
    """Says in a line what a run that would not be short will take; raises UserError if it can't fit and something is left to do."""
    found = of_run(run, device)
    if found is None:
        return
    if not fit.fits(found):
        known = stages_of(run)
        if known is None or known[1] is not None:  # a finished run needs no memory
            fit.refuse_too_large(run, found)
    if line := text.short(found):
        say(line)
