"""One job of a sweep, or a single run: the loop with its journal, and the reports when it ends, however it ends."""

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.loop import Run, execute
from drift.model import precision
from drift.report import closing, html
from drift.report.console import say
from drift.report.journal import Journal


def perform(run: Run, folder: Path, hydra: Any) -> None:
    """Runs in `folder`; writes report.html there, and the study's report one level up if this is a sweep's member."""
    quiet()
    end_on_sigterm()
    sweep = str(hydra.mode).endswith("MULTIRUN")
    overrides = [override.lstrip("+").partition("=") for override in hydra.overrides.task]
    said = {key: value for key, _, value in overrides if not key.startswith("store.")}  # where it is kept changes no result
    title = {"method": hydra.runtime.choices["method"]} | said
    notes = {
        "model": str(hydra.runtime.choices["model"]),
        "data": str(hydra.runtime.choices["data"]),
        "precision": precision.resolve(run.train.precision),
        "judge": judge.label if (judge := getattr(run.method, "judge", None)) else "none",
    }
    say(", ".join(f"{name} {value}" for name, value in (title | notes).items()))
    journal = Journal(folder, title, notes, run.store, run.logger, run.alarms)
    error: BaseException | None = None
    try:
        execute(run, journal)
    except BaseException as caught:
        error = caught
        if sweep and isinstance(caught, UserError):
            say(f"\n{caught}\n")  # at once: the sweep goes on with its other members and raises at its end
        raise
    finally:
        journal.finish(error)
        report = html.run_report(folder)
        if sweep:
            report = html.study_report(Path(hydra.sweep.dir))
        if not isinstance(error, (KeyboardInterrupt, SystemExit)):
            sys.stdout.flush()
            closing.run(folder, report)


def end_on_sigterm() -> None:
    """SIGTERM ends the process, report and all. Lightning alone would take note of it and let a sweep go on with the next member;
    it calls a handler that it finds. One that is there already (a launcher's) stays."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def quiet() -> None:
    """Silences what libraries say about things that are as we want them; everything else they say is shown."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    known = (
        "does not have many workers",
        "LeafSpec",
        "gradient_checkpointing",
        "litlogger",
        "in eval mode at the start",
        "Using ModelCheckpoint with manual",
        "exists and is not empty",  # the progress of a run that was killed
    )
    warnings.filterwarnings("ignore", message=f".*({'|'.join(known)})")
