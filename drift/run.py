"""`drift run`, through Hydra: checks the config, builds the parts, runs the loop, writes the report."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that errors are raised, and shown once, below

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from drift import stop
from drift.chosen import of_member
from drift.compose import CONF, explain
from drift.config import build
from drift.console import say, visible
from drift.errors import UserError, unwritable
from drift.folders import owned
from drift.masking import mask
from drift.overrides import check_choices, quote_paths

SWEEP = ("-m", "--multirun")


def main(arguments: Sequence[str]) -> None:
    """`arguments`: settings (name=value) and Hydra's options (-m, --help, --cfg job). Exits with a message after a user
    error."""
    stop.install()
    try:
        ordered = sorted(arguments, key=lambda word: word not in SWEEP)  # after a setting, Hydra does not know these
        check_choices(ordered := quote_paths(ordered), CONF)
        sys.argv = ["drift run", *ordered]  # Hydra reads its arguments, and its name for usage messages, from here
        _run()
    except UserError as error:
        sys.exit(visible(f"\n{error}"))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(mask(f"\n{explain(error)}"))
    except OSError as error:
        if (told := unwritable(error)) is None:
            raise
        sys.exit(f"\n{told} Choose another folder with hydra.run.dir=FOLDER.")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _run(config: DictConfig) -> None:
    """One run, or one member of a sweep."""
    stop.install()  # a launcher may have started this process
    stop.check()  # before the next member of a sweep
    settings = HydraConfig.get()
    folder, sweep = Path(settings.runtime.output_dir), "MULTIRUN" in str(settings.mode)
    owned_folder: Path | None = None
    try:
        given = settings.overrides.task
        if config.plan is True:
            from drift.plan import command
            from drift.plan.device import device_at_hand

            if sweep:
                say(f"\nPlan of {' '.join(given)}")
            plan = build(command.without_weights(config), of_member(given) if sweep else given)
            command.show(plan, device_at_hand())
            with suppress(OSError):  # it may be that of an earlier run
                folder.rmdir()
            return
        run = build(config, of_member(given) if sweep else given)
        from drift import job

        text = mask(OmegaConf.to_yaml(config, resolve=True))
        with owned(folder, text, "hydra.sweep.dir" if sweep else "hydra.run.dir") as owned_folder:
            job.perform(run, owned_folder, settings, text)
    except UserError as error:
        with suppress(OSError):  # a refused run leaves no empty folder
            folder.rmdir()
        if not sweep:
            sys.exit(visible(f"\n{error}"))
        if owned_folder is None or not (owned_folder / "run.json").is_file():
            raise  # nothing on disk shows the failure, so Hydra must
        say(f"\n{error}\n")  # now, because the sweep continues with its other members; its end lists the failed ones
