"""Passes of a frozen model: the reference over a row plan, and the scores of any rows.

Each goes through a fresh Lightning `Trainer.predict` on the rows that training uses, so the numbers are training's own.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drift.batches import cut
from drift.console import Progress
from drift.errors import memory_advice
from drift.finite import broken_weights, need_finite
from drift.model.policy import Policy
from drift.score.plan import Layout, Plan, Row, layout_module
from drift.store import Stage, Store
from drift.train.frozen import kept, num_frozen
from drift.train.settings import Train

VERSION = 3
Scorer = Callable[[Sequence[Sequence[Row]], str, Callable[[int], None]], list[list[float]]]  # see open_scorer
NOWHERE = f"{os.devnull}/nothing"  # a path under which no file can be


def reference_stage(store: Store, train: Train, reference: Policy, start: Policy, plan: Plan) -> Stage:
    """Reply log-probs of the plan's rows under the reference: `reference.json`, see `Reference`; and `frozen/`, the outputs of
    the layers that training from `start` leaves alone (see frozen.py)."""
    layers = num_frozen(train, start, plan)

    def work(progress: Path, output: Path) -> dict[str, Any]:
        sums = _score(train, plan.layout, reference, plan.passes, "reference log-probs", layers, output / "frozen")
        text = json.dumps(asdict(Reference.of(plan, sums)))
        (output / "reference.json").write_text(text, encoding="utf-8")
        return {"rows": sum(map(len, plan.passes))} | plan.workload()

    numbers = {"lightning": train.dtype()[0], "dtype": train.dtype()[1], "frozen": layers}
    inputs = {"policy": reference.fingerprint, "rows": plan.key}
    return store.run("reference", work, version=VERSION, settings=numbers, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Summed log-probs (nats) under the reference. `replies`: of each reply of each example of a plan. `mismatched`: of the plan's
    mismatched rows, by step and batch."""

    replies: list[list[float]]
    mismatched: list[list[list[float]]]

    @classmethod
    def of(cls, plan: Plan, sums: Sequence[list[float]]) -> "Reference":
        """From the sums of every batch of `plan.passes`."""
        replies = [[math.nan] * len(one.rows) for one in plan.examples]
        rest = iter(sums)
        for batch, values in zip(plan.batches, rest, strict=False):
            for (i, k), value in zip(plan.places(batch), values, strict=True):
                replies[i][k] = value
        return cls(replies=replies, mismatched=[[next(rest) for _ in step] for step in plan.mismatched])

    def rows(self, plan: Plan, batch: Sequence[int]) -> list[float]:
        """Of a batch's rows, in their order."""
        return [self.replies[i][k] for i, k in plan.places(batch)]


def recheck(train: Train, reference: Policy, plan: Plan, values: Reference) -> None:
    """Where the reference is not the start, the log-ratios of step 0 are not 0: the first rows are scored once more instead."""
    first = plan.steps[0][0]
    (again,) = _score(train, plan.layout, reference, [plan.rows(first)], "reference check")
    off = [abs(a - b) for a, b in zip(values.rows(plan, first), again, strict=True)]
    if not all(one <= 1e-4 for one in off):  # so that nan does not pass
        raise RuntimeError(
            f"Reference check failed: log-probs of the first rows are off by {max(off):.2e} nats. Nothing was trained."
        )


def score_rows(train: Train, policy: Policy, rows: Sequence[Row], label: str) -> list[float]:
    """Summed reply log-prob (nats) of every row, in the order given."""
    with Progress(label, total=len(rows), unit="rows") as bar, open_scorer(train, train.rows, policy) as score:
        return by_length(score, train, rows, label, bar.advance)


def by_length(score: Scorer, train: Train, rows: Sequence[Row], label: str, tick: Callable[[int], None]) -> list[float]:
    """Summed reply log-prob (nats) of every row, in the order given; computed sorted by length."""
    sizes = [len(row.prompt) + len(row.reply) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: sizes[i])
    batches = cut(order, [sizes[i] for i in order], train.tokens_per_batch)
    sums = score([[rows[i] for i in batch] for batch in batches], label, tick)
    found = {i: value for batch, values in zip(batches, sums, strict=True) for i, value in zip(batch, values, strict=True)}
    return [found[i] for i in range(len(rows))]


def _score(
    train: Train,
    layout: Layout,
    policy: Policy,
    batches: Sequence[Sequence[Row]],
    label: str,
    layers: int = 0,
    folder: Path | None = None,
) -> list[list[float]]:
    """Summed reply log-probs of every batch's rows."""
    total = sum(map(len, batches))
    with Progress(label, total=total, unit="rows") as bar, open_scorer(train, layout, policy, layers, folder) as score:
        return score(batches, label, bar.advance)


@contextmanager
def open_scorer(train: Train, layout: Layout, policy: Policy, layers: int = 0, folder: Path | None = None) -> Iterator[Scorer]:
    """Loads the policy; yields `score(batches, label, tick)`, the summed reply log-probs of every batch's rows, finite numbers all;
    frees it. `tick(count)` is called with the rows just done. Where `layers` > 0, what goes into that layer is kept in `folder`."""
    import torch
    from torch.utils.data import DataLoader

    from drift.model.policy import free, load_model, load_tokenizer
    from drift.train.modules import ReferenceModule

    kind, dtype = train.dtype()
    pad = load_tokenizer(policy).pad_token_id or 0
    loaded: list[Any] = []

    def score(batches: Sequence[Sequence[Row]], label: str, tick: Callable[[int], None]) -> list[list[float]]:
        collated: Any = [layout_module(layout).collate(rows, pad) for rows in batches]
        with memory_advice("train.tokens_per_batch", train.tokens_per_batch), kept(loaded[0], layers, folder):
            module = ReferenceModule(loaded[0], layout_module(layout), tick)
            trainer = make_trainer(kind, enable_checkpointing=False)
            sums = trainer.predict(module, DataLoader(collated, batch_size=None), return_predictions=True)
        assert sums is not None
        numbers = torch.cat(sums).tolist()  # type: ignore[arg-type]
        replies = {f"the log-prob of reply {i}": value for i, value in enumerate(numbers, start=1)}
        need_finite(replies, label.capitalize(), broken_weights(policy.directory, "train.precision"))
        return [values.tolist() for values in sums]  # type: ignore[union-attr]

    try:
        with memory_advice("train.tokens_per_batch", train.tokens_per_batch):
            loaded.append(load_model(policy, getattr(torch, dtype)))
        yield score
    finally:
        loaded.clear()
        free()


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
