"""Logs the same metrics to Weights & Biases, and some examples and replies as tables; offline unless set otherwise.

One run here is one run there: group = study, job type = method, config = the composed config; the name shows how the run differs
from the other members of its sweep. Gains and verdict are in its summary. A study has one run more, of job type `report`
(comparison.py). An offline run is stored in the run folder; `wandb sync` uploads it. The axis of steps is `step`, that of
evaluations `iteration`. What a run makes are artifacts that refer to files on this machine: their paths and sizes are logged, not
their contents. Which artifacts one was made from is in its metadata."""

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drift.console import say
from drift.errors import UserError, need_package
from drift.logger import comparison
from drift.logger.csv import Csv, CsvFiles
from drift.report.state import WARM_START

LONGEST = 4000  # characters of a text in a table


@dataclass(frozen=True, kw_only=True)
class Wandb(Csv):
    """`mode`: online sends metrics, config, and the texts of examples and replies (`samples`) to the server that wandb is logged in
    to."""

    project: str
    entity: str | None
    mode: Literal["offline", "online"]
    samples: bool
    tags: list[str]

    def check(self) -> None:
        need_package("wandb", "logger=wandb", extra="wandb")

    def begin(self, folder: Path, title: dict[str, str], notes: dict[str, str]) -> "WandbRun":
        return WandbRun(self, folder, title, notes)

    def start(self, folder: Path, **about: Any) -> Any:
        """A new run of W&B in a folder."""
        if self.mode == "offline":
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # telemetry, which wandb would send in offline mode too
        import wandb

        with translate_errors("logger.mode=offline"):
            return wandb.init(
                project=self.project,
                entity=self.entity,
                mode=self.mode,
                dir=folder,
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=self.mode == "offline"),
                **about,
            )

    def study(self, folder: Path) -> None:
        """Logs the comparison of a study's runs as a run of its own; its page only together with samples, which are on it."""
        tables = comparison.tables_of(folder, with_samples=self.samples)
        run = self.start(folder, group=folder.resolve().name, job_type="report", name="report", tags=self.tags)
        try:
            for name, rows in tables.items():
                run.log({f"report/{name}": _table(rows)})
            if self.samples:
                _log_page(run, folder / "report.html")
        finally:
            run.finish()
        sync = f"offline; wandb sync {shlex.quote(str(folder))}/wandb/offline-run-* uploads it"
        say(f"W&B: report {run.url if self.mode == 'online' else sync}")


class WandbRun(CsvFiles):
    """One run; `end` finishes it, so that the next run of this process is a separate one."""

    def __init__(self, settings: Wandb, folder: Path, title: dict[str, str], notes: dict[str, str]) -> None:
        from omegaconf import OmegaConf

        super().__init__(folder)
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        study = next((above for above in folder.parents if (above / "multirun.yaml").is_file()), folder)
        self.with_samples, self.step = settings.samples, 0
        self.run = settings.start(
            folder,
            group=study.name,
            job_type=title["method"],
            name=name_of(title, config.get("seed", 0), study),
            tags=[*settings.tags, *(notes[name] for name in ("model", "data") if name in notes)],
            config=config,
        )
        if settings.mode == "online":
            say(f"W&B: {self.run.url}")
        elif command := sync_command(folder, study):
            say(f"W&B: offline; {command}")
        for axis, names in (("step", "train/*"), ("iteration", "scores/*"), ("iteration", "alarms/*")):
            self.run.define_metric(axis, hidden=True)
            self.run.define_metric(names, step_metric=axis)

    def steps(self, iteration: int, rows: list[dict[str, float]]) -> None:
        super().steps(iteration, rows)
        for row in rows:
            self.step += 1
            named = {f"train/{name}": value for name, value in row.items() if name != "step"}
            self.run.log({"step": self.step, "iteration": iteration} | named)

    def scores(self, iteration: int, policy: str, metrics: Mapping[str, float | None]) -> None:
        super().scores(iteration, policy, metrics)
        known = {f"scores/{name}": value for name, value in metrics.items() if value is not None}
        between = 0.5 if policy == WARM_START else 0.0  # the start model is at 0
        self.run.log({"iteration": iteration + between} | known)

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

    def output(self, name: str, iteration: int, paths: Sequence[Path], made_from: Sequence[str]) -> None:
        import wandb

        about = {"iteration": iteration, "made from": list(made_from), "paths": [str(path) for path in paths]}
        artifact = wandb.Artifact(name, type=name.partition("-")[0], metadata=about)
        for path in paths:
            artifact.add_reference(path.resolve().as_uri(), checksum=False)
        self.run.log_artifact(artifact, aliases=[f"iteration-{iteration}"])

    def summary(self, results: dict[str, Any]) -> None:
        self.run.summary.update({name: value for name, value in results.items() if value is not None})

    def end(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


def name_of(title: dict[str, str], seed: int, study: Path) -> str:
    """'spin, train.loss.beta=0.05, seed 1': the method, the overrides that differ within the sweep, and the seed."""
    from omegaconf import OmegaConf

    rest: list[str] = []
    if (file := study / "multirun.yaml").is_file():
        sweep: Any = OmegaConf.load(file)
        shared = {item.lstrip("+") for item in sweep.hydra.overrides.task}  # swept settings are listed there with all their values
        own = [f"{name}={value}" for name, value in title.items() if name not in ("method", "seed")]
        rest = [override for override in own if override not in shared]
    return ", ".join([title["method"], *rest, f"seed {seed}"])


def sync_command(folder: Path, study: Path) -> str:
    """The command that uploads a run, or its whole sweep; "" if an earlier member of the sweep has already shown it."""
    if study == folder:
        return f"wandb sync {shlex.quote(str(folder))}/wandb/offline-run-*"
    pattern = "*/" * len(folder.relative_to(study).parts) + "wandb/offline-run-*"
    earlier = [place for place in study.glob(pattern) if not place.is_relative_to(folder)]
    return "" if earlier else f"wandb sync {shlex.quote(str(study))}/{pattern} uploads the whole sweep"


@contextmanager
def translate_errors(alternative: str) -> Iterator[None]:
    """Turns errors of W&B (not logged in, no server) into a UserError, which names an `alternative` that sends nothing."""
    from wandb.errors import Error

    try:
        yield
    except Error as error:
        raise UserError(
            f"W&B: {error} Log in with `wandb login` (or WANDB_API_KEY); or send nothing, with {alternative}."
        ) from error


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as a table of W&B; long texts are shortened, and a cell that a row does not have is empty."""
    import wandb

    names: list[Any] = list(dict.fromkeys(name for row in rows for name in row))
    cells: list[Any] = [[value[:LONGEST] if isinstance(value := row.get(name), str) else value for name in names] for row in rows]
    return wandb.Table(names, cells, allow_mixed_types=True)


def _log_page(run: Any, page: Path) -> None:
    """The HTML report to look at in W&B, and as an artifact. (An offline run keeps a copy: a report may be rebuilt.)"""
    import wandb

    run.log({"report/page": wandb.Html(str(page), inject=False)})
    artifact = wandb.Artifact(f"report-{run.id}", type="report")
    artifact.add_file(str(shutil.copy(page, Path(run.dir) / page.name)), policy="immutable")
    run.log_artifact(artifact)


def _text(value: Any) -> str:
    """The text of a table cell: a text, or the last message of a prompt, shortened."""
    return str(value[-1]["content"] if isinstance(value, list) else value or "")[:LONGEST]
