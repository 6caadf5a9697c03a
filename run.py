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

from drift.config import build, explain
from drift.errors import UserError
from drift.overrides import quote_paths

CONF = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        run = build(config)
    except UserError:
        with suppress(OSError):  # a refused run leaves no empty folder
            folder.rmdir()
        raise
    from drift import job

    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    job.perform(run, folder, HydraConfig.get())


if __name__ == "__main__":
    try:
        sys.argv[1:] = quote_paths(sys.argv[1:])
        main()
    except UserError as error:
        sys.exit(f"\n{error}")
    except HydraException as error:
        sys.exit(f"\n{explain(error, CONF)}")
