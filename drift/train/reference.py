"""Passes of a frozen model: the reference over a row plan, and the scores of any rows.

Each goes through a fresh Lightning `Trainer.predict` on the rows that training uses, so the numbers are training's own.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drift.errors import memory_advice
from drift.model.policy import Policy
from drift.records import digest
from drift.report.console import Progress
from drift.store import Stage, Store
from drift.train.rows import PairRows, Plan, Row, collate, collate_pairs
from drift.train.settings import Train

VERSION = 1


def reference_stage(store: Store, train: Train, reference: Policy, plan: Plan) -> Stage:
    """Reply log-probs of the plan's rows under the reference: `reference.json`, [chosen, rejected] per pair in plan order."""

    def work(progress: Path, output: Path) -> dict[str, Any]:
        batches = [[plan.pairs[i] for i in batch] for batch in plan.batches]
        sums = score_pairs(train, reference, batches, "reference log-probs")
        by_pair = {
            i: value for batch, values in zip(plan.batches, sums, strict=True) for i, value in zip(batch, values, strict=True)
        }
        (output / "reference.json").write_text(json.dumps([by_pair[i] for i in range(len(plan.pairs))]), encoding="utf-8")
        return {"rows": 2 * len(plan.pairs)}

    numbers = {"lightning": train.dtype()[0], "dtype": train.dtype()[1]}
    inputs = {"policy": reference.fingerprint, "rows": plan.key}
    return store.run("reference", work, version=VERSION, settings=numbers, inputs=inputs)


def recheck(train: Train, reference: Policy, plan: Plan, values: list[list[float]]) -> None:
    """Where the reference is not the start, the step-0 loss is not ln 2: the first rows are scored once more instead."""
    first = plan.steps[0][0]
    again = score_pairs(train, reference, [[plan.pairs[i] for i in first]], "reference check")[0]
    worst = max(abs(a - b) for i, pair in zip(first, again, strict=True) for a, b in zip(values[i], pair, strict=True))
    if worst > 1e-4:
        raise RuntimeError(f"Reference check failed: log-probs of the first rows are off by {worst:.2e} nats. Nothing was trained.")


def score_pairs(train: Train, policy: Policy, batches: Sequence[Sequence[PairRows]], label: str) -> list[list[list[float]]]:
    """Per batch, per pair: [chosen, rejected] summed reply log-probs in nats."""
    sums = _score(
        train,
        policy,
        [lambda pad, b=batch: collate_pairs(b, pad) for batch in batches],
        sum(map(len, batches)) * 2,
        label,
    )
    return [[list(pair) for pair in zip(values[: len(values) // 2], values[len(values) // 2 :], strict=True)] for values in sums]


def score_stage(store: Store, train: Train, policy: Policy, rows: Sequence[Row], label: str) -> list[float]:
    """`score_rows` as a stage of its own, for rows that are scored again and again (the start model's)."""

    def work(progress: Path, output: Path) -> dict[str, Any]:
        (output / "sums.json").write_text(json.dumps(score_rows(train, policy, rows, label)), encoding="utf-8")
        return {"rows": len(rows)}

    settings = {"dtype": train.dtype(), "pairs_per_batch": train.pairs_per_batch}
    inputs = {"policy": policy.fingerprint, "rows": digest([asdict(row) for row in rows])}
    stage = store.run("score", work, version=VERSION, settings=settings, inputs=inputs)
    return json.loads((stage.path / "sums.json").read_text(encoding="utf-8"))


def score_rows(train: Train, policy: Policy, rows: Sequence[Row], label: str) -> list[float]:
    """Summed reply log-prob (nats) of every row, in the order given; computed sorted by length."""
    size = 2 * train.pairs_per_batch
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].reply))
    batches = [by_length[k : k + size] for k in range(0, len(rows), size)]
    sums = _score(train, policy, [lambda pad, b=batch: collate([rows[i] for i in b], pad) for batch in batches], len(rows), label)
    found = {i: value for batch, values in zip(batches, sums, strict=True) for i, value in zip(batch, values, strict=True)}
    return [found[i] for i in range(len(rows))]


def _score(train: Train, policy: Policy, batches: list[Callable[[int], Any]], total: int, label: str) -> list[list[float]]:
    import torch
    from torch.utils.data import DataLoader

    from drift.model.policy import free, load_model, load_tokenizer
    from drift.train.modules import ReferenceModule

    kind, dtype = train.dtype()
    pad = load_tokenizer(policy).pad_token_id or 0
    with (
        Progress(label, total=total, unit="rows") as bar,
        memory_advice("train.pairs_per_batch", train.pairs_per_batch),
    ):
        module = ReferenceModule(load_model(policy, getattr(torch, dtype)), bar.advance)
        trainer = make_trainer(kind, enable_checkpointing=False)
        sums = trainer.predict(module, DataLoader([make(pad) for make in batches], batch_size=None), return_predictions=True)
    assert sums is not None
    del trainer, module
    free()
    return [values.tolist() for values in sums]  # type: ignore[union-attr]


def make_trainer(kind: str, **settings: Any) -> Any:
    """A fresh Trainer that says nothing by itself: progress, metrics and files are ours."""
    import lightning

    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):  # after the import, which sets them to INFO
        logging.getLogger(name).setLevel(logging.ERROR)
    return lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision=kind,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
