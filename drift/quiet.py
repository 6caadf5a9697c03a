"""Keeps library messages off the console: they go to a file, or nowhere; errors are still shown."""

import logging
import os
from pathlib import Path
from typing import TextIO

OFFLINE = {  # always set: models and data come from the cache, and no kernels are downloaded
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
NUMBERED = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # always set: Lightning does so in the middle of a run, and GPUs would change names
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}  # unless the user has set them


def environment() -> None:
    """Sets the environment; must be called before any library is imported."""
    os.environ.update(OFFLINE | NUMBERED)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def libraries(log: Path | None, console: TextIO | None) -> None:
    """Sends warnings and log records of libraries to `log` (created with the first one), and errors to `console` too."""
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # an unwritable log on a full disk needs no message of its own
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    if console is not None:
        errors = logging.StreamHandler(console)
        errors.setLevel(logging.ERROR)
        root.addHandler(errors)
    if log is not None:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_default_handler()
        transformers_logging.enable_propagation()
        transformers_logging.disable_progress_bar()
        file = logging.FileHandler(log, delay=True, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        root.addHandler(file)
