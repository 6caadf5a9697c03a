"""The same metrics in Weights & Biases, and some examples and replies as tables; offline unless the user says otherwise.

One run of ours is one of theirs: group = study, job type = method, the composed config as it is; its name says what sets it apart
from the other members of its sweep. Gains and verdict are in its summary. An offline run lies in the run folder; `wandb sync` sends
it. Steps are laid over `step`, evaluations over `iteration`.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drift.console import say
from drift.errors import UserError, need_package
from drift.logger.csv import Csv, CsvFiles

LONGEST = 4000  # characters of a text


@dataclass(frozen=True, kw_only=True)
class Wandb(Csv):
    """`mode`: online sends metrics, config, and texts of examples and replies (`samples`) to the server that
    wandb is logged in to."""

    project: str
    entity: str | None
    mode: Literal["offline", "online"]
    samples: bool
    tags: list[str]

    def check(self) -> None:
        need_package("wandb", "logger=wandb", extra="wandb")

    def begin(self, folder: Path, title: dict[str, str], notes: dict[str, str]) -> "WandbRun":
        return WandbRun(self, folder, title, notes)


class WandbRun(CsvFiles):
    """One run; `end` finishes it, so the next one of this process gets its own."""

    def __init__(self, settings: Wandb, folder: Path, title: dict[str, str], notes: dict[str, str]) -> None:
        if settings.mode == "offline":
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # its own metrics and errors, which it sends in this mode too
        import wandb
        from omegaconf import OmegaConf

        super().__init__(folder)
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        study = next((above for above in folder.parents if (above / "multirun.yaml").is_file()), folder)
        self.with_samples, self.step = settings.samples, 0
        with translate_errors("logger.mode=offline"):
            self.run = wandb.init(
                project=settings.project,
                entity=settings.entity,
                mode=settings.mode,
                dir=folder,
                group=study.name,
                job_type=title["method"],
                name=name_of(title, config.get("seed", 0), study),
                tags=[*settings.tags, *(notes[name] for name in ("model", "data") if name in notes)],
                config=config,
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=settings.mode == "offline"),
            )
        if settings.mode == "online":
            say(f"W&B: {self.run.url}")
        elif first := sync(folder, study):
            say(f"W&B: offline; {first}")
        for axis, names in (("step", "train/*"), ("iteration", "scores/*"), ("iteration", "alarms/*")):
            self.run.define_metric(axis, hidden=True)
            self.run.define_metric(names, step_metric=axis)

    def steps(self, iteration: int, rows: list[dict[str, float]]) -> None:
        super().steps(iteration, rows)
        for row in rows:
            self.step += 1
            named = {f"train/{name}": value for name, value in row.items() if name != "step"}
            self.run.log({"step": self.step, "iteration": iteration} | named)

    def scores(self, iteration: int, metrics: Mapping[str, float | None]) -> None:
        super().scores(iteration, metrics)
        known = {f"scores/{name}": value for name, value in metrics.items() if value is not None}
        self.run.log({"iteration": iteration} | known)

    def samples(self, iteration: int, kind: str, rows: list[dict[str, Any]]) -> None:
        import wandb

        if not self.with_samples or not rows:
            return
        names = [name for name in ("prompt", "reply", "good", "bad", "feedback") if name in rows[0]]
        data: list[Any] = [[iteration, *(_text(row[name]) for name in names)] for row in rows]
        self.run.log({"iteration": iteration, f"{kind}/iteration {iteration}": wandb.Table(["iteration", *names], data)})

    def alarm(self, iteration: int, during: str, name: str, text: str) -> None:
        self.run.alert(title=f"{name}, iteration {iteration}, {during}", text=text, level="WARN")
        self.run.log({"iteration": iteration, f"alarms/{name}": 1})

    def summary(self, found: dict[str, Any]) -> None:
        self.run.summary.update({name: value for name, value in found.items() if value is not None})

    def end(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


def name_of(title: dict[str, str], seed: int, study: Path) -> str:
    """'spin, train.loss.beta=0.05, seed 1': the method, and the overrides that not all members of the sweep share."""
    from omegaconf import OmegaConf

    rest: list[str] = []
    if (file := study / "multirun.yaml").is_file():
        sweep: Any = OmegaConf.load(file)
        shared = {item.lstrip("+") for item in sweep.hydra.overrides.task}  # what was swept stands there with all its values
        mine = [f"{name}={value}" for name, value in title.items() if name not in ("method", "seed")]
        rest = [override for override in mine if override not in shared]
    return ", ".join([title["method"], *rest, f"seed {seed}"])


def sync(folder: Path, study: Path) -> str:
    """The command that sends a run, or all of its sweep; "" where an earlier member of the sweep has said it."""
    if study == folder:
        return f"wandb sync {shlex.quote(str(folder))}/wandb/offline-run-*"
    pattern = "*/" * len(folder.relative_to(study).parts) + "wandb/offline-run-*"
    earlier = [place for place in study.glob(pattern) if not place.is_relative_to(folder)]
    return "" if earlier else f"wandb sync {shlex.quote(str(study))}/{pattern} sends the whole sweep"


@contextmanager
def translate_errors(alternative: str) -> Iterator[None]:
    """Turns those of W&B (nobody is logged in, no server answers) into ours, with what sends nothing."""
    from wandb.errors import Error

    try:
        yield
    except Error as error:
        raise UserError(f"W&B: {error} Log in with `wandb login` (or WANDB_API_KEY); or send nothing: {alternative}.") from error


def _text(value: Any) -> str:
    """A text, or the last message of a prompt, as a cell holds it."""
    return str(value[-1]["content"] if isinstance(value, list) else value or "")[:LONGEST]
