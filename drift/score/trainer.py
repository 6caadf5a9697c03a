"""Lightning's `Trainer`, which prints nothing and writes no files of its own: one process on one device, unless it is told more."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

NOWHERE = f"{os.devnull}/nothing"  # a path under which no file can be


def make_trainer(kind: Any, plugins: Sequence[Any] = (), environment: Any = None, **settings: Any) -> Any:
    """A fresh, silent Trainer: this project prints the progress and writes the metrics and files itself.

    Whatever the environment says (SLURM, torchelastic, Kubeflow, LSF, PL_TRAINER_...), it is one process on this rank's device, or
    has a strategy for several ranks and an `environment` (train/parallel.py). It catches no signal to requeue a job, and neither
    looks for checkpoints nor writes them unless it is told to."""
    import lightning
    import torch
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):  # after the import, which sets them to INFO
        logging.getLogger(name).setLevel(logging.ERROR)
    gpu = torch.cuda.is_available()
    if environment is None:
        environment = LightningEnvironment()
        environment.set_global_rank(0)  # importing Lightning sets the rank from RANK or SLURM_PROCID, and only rank 0 writes
    with _unset("PL_TRAINER_"):  # such a variable would become the default of a setting that is not given below
        return lightning.Trainer(
            accelerator="cuda" if gpu else "cpu",  # as load_model; "auto" would take the GPU of a Mac
            devices=[torch.cuda.current_device()] if gpu else 1,
            precision=kind,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=NOWHERE,
            plugins=[environment, *plugins],
            **settings,
        )


@contextmanager
def _unset(prefix: str) -> Iterator[None]:
    """Removes the environment variables with this prefix, and restores them afterwards."""
    removed = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
    for name in removed:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(removed)
