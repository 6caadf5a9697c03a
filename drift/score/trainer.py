"""Lightning's `Trainer`, as one process on one device that says nothing and writes nothing by itself."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

NOWHERE = f"{os.devnull}/nothing"  # a path under which no file can be


def make_trainer(kind: Any, plugins: Sequence[Any] = (), **settings: Any) -> Any:
    """A fresh Trainer that says nothing by itself: progress, metrics and files are ours.

    Whatever the environment says (SLURM, torchelastic, Kubeflow, LSF, PL_TRAINER_...), it is one process on one device, catches no
    signal to requeue a job, and neither looks for a checkpoint nor writes one where nobody told it to."""
    import lightning
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):  # after the import, which sets them to INFO
        logging.getLogger(name).setLevel(logging.ERROR)
    alone = LightningEnvironment()
    alone.set_global_rank(0)  # Lightning's import takes the rank from RANK or SLURM_PROCID, and others than 0 write nothing
    with _unset("PL_TRAINER_"):  # such a variable would be the default of a setting that is not given below
        return lightning.Trainer(
            accelerator="auto",
            devices=1,
            precision=kind,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=NOWHERE,
            plugins=[alone, *plugins],
            **settings,
        )


@contextmanager
def _unset(prefix: str) -> Iterator[None]:
    """Without the environment variables of this prefix."""
    aside = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
    for name in aside:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(aside)
