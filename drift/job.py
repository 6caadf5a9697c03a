"""One member of a sweep, or a single run: the loop with its journal, and the report at the end, however it ends."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drift import chosen, launch, quiet, stop
from drift.compose import CONF
from drift.console import say
from drift.engine import failure
from drift.journal import Journal
from drift.loop import Run, execute
from drift.masking import masked
from drift.model import precision
from drift.plan import command
from drift.plan.device import device_at_hand
from drift.records import write_json
from drift.report import closing, html

TOLD = "command.json"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What only the command line says about a run. `title`: what distinguishes it in a study; `notes`: its choices of parts, by
    name. `study`: the folder of the sweep that it is a member of, or None."""

    title: dict[str, str]
    notes: dict[str, str]
    study: str | None


def perform(run: Run, folder: Path, hydra: Any, config: str) -> None:
    """Runs in `folder`, which belongs to this run alone; writes report.html there unless the run is a member of a sweep. `config`:
    the composed settings, to be kept with the results."""
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    quiet.libraries(folder / "libraries.log", sys.stderr)
    sweep = str(hydra.mode).endswith("MULTIRUN")
    overrides = [override.lstrip("+").partition("=") for override in hydra.overrides.task]
    given = {key: value for key, _, value in overrides if not key.startswith("store.")}  # the store's location changes no result
    title = masked({"method": hydra.runtime.choices["method"]} | given)
    notes = {
        "model": str(hydra.runtime.choices["model"]),
        "data": str(hydra.runtime.choices["data"]),
        "precision": precision.resolve(run.train.precision),
        "judge": run.method.judge.label if run.method.judge else "none",
    }
    say(", ".join(f"{name} {value}" for name, value in (title | notes).items()))
    choices = hydra.runtime.choices
    advice = chosen.suited(choices["model"], choices.get("experiment"), CONF)
    for note in (*unusual(run), *chosen.idle(run, hydra.overrides.task), *advice):
        say(f"Note: {note}")
    told = Told(title=title, notes=notes, study=hydra.sweep.dir if sweep else None)
    if run.devices == 1:
        carry_out(run, folder, told)
        return
    write_json(folder / TOLD, asdict(told))
    launch.ranks(folder, run.devices)


def told_in(folder: Path, run: Run) -> Told:
    """What `drift run` noted in the run folder; of a folder that it did not make, what the settings themselves say."""
    if (file := folder / TOLD).is_file():
        return Told(**json.loads(file.read_text(encoding="utf-8")))
    method, model, data = (type(part).__name__.lower() for part in (run.method, run.model, run.data))
    title = {"method": method, "seed": str(run.seed)} | ({"data.seed": str(run.data.seed)} if run.data.uses_policy else {})
    return Told(title=title, notes={"model": model, "data": data}, study=None)


def carry_out(run: Run, folder: Path, told: Told) -> None:
    """The loop with its journal, and the report, however it ends. With several ranks this is what rank 0 does."""
    kept = Journal(folder, told.title, told.notes, run.store, run.logger, run.alarms)
    error: BaseException | None = None
    try:
        command.before(run, device_at_hand())
        execute(run, kept)
    except BaseException as caught:
        error = failure.of_another(folder, caught) or stop.stopped() or caught  # a library may have turned a signal into an error
        if isinstance(error, stop.Stopped):
            say(f"\nStopped by {stop.signal_name()}. Finished work is kept: the same command continues from there.")
    try:
        finish(kept, error, Path(told.study) if told.study else None)
    except OSError as problem:  # on a full disk the first error is more important
        if error is None:
            raise
        say(f"The report in {folder} could not be written: {problem}")
    if error is not None:
        raise error


def finish(kept: Journal, error: BaseException | None, study: Path | None) -> None:
    """Completes the journal and the report. A sweep has one report for all members, built at its end, or here after a signal."""
    kept.finish(error)
    stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
    sys.stdout.flush()
    if study is None:
        report = html.run_report(kept.folder)
        if not stopped:
            closing.run(kept.folder, report)
    elif stopped:
        html.study_report(study)
    else:
        closing.member(kept.folder)


def unusual(run: Run) -> list[str]:
    """Notes about settings that are allowed but may not be intended."""
    found = []
    if not run.iterations and not run.warmup_epochs:
        found.append("iterations=0: nothing is trained, the start model is evaluated.")
    elif run.method.paired and not any(objective.paired for objective in run.objective.values()):
        found.append(
            f"objective=[{','.join(run.objective)}] compares no replies: this is supervised fine-tuning on the chosen replies, and "
            "the rejected ones that the method makes are not used. method=sft does the same without sampling."
        )
    if run.train.cpu_offload and run.devices == 1:
        found.append("train.cpu_offload=true does nothing on one device: it is for numbers that are divided among several.")
    if run.train.rounds_updates_away:
        found.append(
            f"train.parameters=bfloat16 with train.learning_rate={run.train.learning_rate:g}: most updates are smaller than half "
            "the distance between two bfloat16 numbers and are rounded away, so the weights hardly move. Keep float32 weights "
            "(train.parameters=float32), or train an adapter (train=lora), which is float32."
        )
    return found
