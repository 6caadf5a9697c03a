"""The console is ours: what libraries say about themselves goes to a file, or nowhere; their errors are shown all the same."""

import logging
import os
from pathlib import Path

OFFLINE = {  # whatever the user's shell says: models and data come from the cache, native kernels from nowhere
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}  # unless the user has set them


def environment() -> None:
    """Before any of them is imported."""
    os.environ.update(OFFLINE)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def libraries(log: Path | None) -> None:
    """Sends warnings and log records of libraries to `log` (made with the first of them), errors to the console too."""
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a log that can't be written, on a full disk, is no news of its own
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    console = logging.StreamHandler()
    console.setLevel(logging.ERROR)
    root.addHandler(console)
    if log is not None:
        from transformers.utils import logging as of_transformers

        of_transformers.disable_default_handler()
        of_transformers.enable_propagation()
        of_transformers.disable_progress_bar()
        file = logging.FileHandler(log, delay=True, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        root.addHandler(file)
