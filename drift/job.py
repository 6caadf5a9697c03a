"""One member of a sweep, or a single run: the loop with its journal, and the report at the end, however it ends."""

import sys
from pathlib import Path
from typing import Any

from drift import chosen, quiet, stop
from drift.compose import CONF
from drift.console import say
from drift.journal import Journal
from drift.loop import Run, execute
from drift.masking import masked
from drift.model import precision
from drift.plan import command
from drift.plan.device import device_at_hand
from drift.report import closing, html


def perform(run: Run, folder: Path, hydra: Any, config: str) -> None:
    """Runs in `folder`, which belongs to this run alone; writes report.html there unless the run is a member of a sweep. `config`:
    the composed settings, to be kept with the results."""
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    quiet.libraries(folder / "libraries.log")
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
    kept = Journal(folder, title, notes, run.store, run.logger, run.alarms)
    error: BaseException | None = None
    try:
        command.before(run, device_at_hand())
        execute(run, kept)
    except BaseException as caught:
        error = stop.stopped() or caught  # a library may have turned a signal into another error
        if isinstance(error, stop.Stopped):
            say(f"\nStopped by {stop.signal_name()}. Finished work is kept: the same command continues from there.")
    try:
        finish(kept, error, Path(hydra.sweep.dir) if sweep else None)
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
    if run.train.rounds_updates_away:
        found.append(
            f"train.parameters=bfloat16 with train.learning_rate={run.train.learning_rate:g}: most updates are smaller than half "
            "the distance between two bfloat16 numbers and are rounded away, so the weights hardly move. Keep float32 weights "
            "(train.parameters=float32), or train an adapter (train=lora), which is float32."
        )
    return found
