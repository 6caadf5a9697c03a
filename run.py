"""Hydra entry: check the config, build the parts, run the loop, write the report."""

import os
import sys
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, and are shown once, below

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from drift import stop
from drift.config import CONF, build, explain
from drift.console import say, visible
from drift.errors import CANT_WRITE, UserError
from drift.folders import owned
from drift.masking import mask
from drift.overrides import quote_paths


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> None:
    stop.install()
    stop.check()  # a sweep's next member
    settings = HydraConfig.get()
    folder, sweep = Path(settings.runtime.output_dir), "MULTIRUN" in str(settings.mode)
    mine: Path | None = None
    try:
        run = build(config, settings.overrides.task)
        from drift import job

        text = mask(OmegaConf.to_yaml(config, resolve=True))
        with owned(folder, text, "hydra.sweep.dir" if sweep else "hydra.run.dir") as mine:
            job.perform(run, mine, settings, text)
    except UserError as error:
        with suppress(OSError):  # a refused run leaves no empty folder
            folder.rmdir()
        if not sweep:
            sys.exit(visible(f"\n{error}"))
        if mine is None or not (mine / "run.json").is_file():
            raise  # nothing on disk says that it failed: Hydra has to
        say(f"\n{error}\n")  # at once: the sweep goes on with its other members, and says at its end who failed


if __name__ == "__main__":
    stop.install()
    try:
        sys.argv[1:] = quote_paths(sys.argv[1:])
        main()
    except UserError as error:
        sys.exit(visible(f"\n{error}"))
    except HydraException as error:
        sys.exit(mask(f"\n{explain(error, CONF)}"))
    except OSError as error:
        if error.errno not in CANT_WRITE or not error.filename:
            raise
        sys.exit(f"\n{error.filename} can't be written to: {error.strerror}. Put the run elsewhere with hydra.run.dir=FOLDER.")
