"""Passes of a frozen model: the reference over a sequence plan, and the scores of any sequences.

Each goes through a fresh Lightning `Trainer.predict` on the sequences that training uses, so the numbers are training's own.
"""

import json
import math
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
from drift.score.kept import kept
from drift.score.plan import Plan, layout_module
from drift.score.sequence import Compute, TokenSequence
from drift.score.trainer import make_trainer
from drift.store import Stage, Store

VERSION = 3
Scorer = Callable[[Sequence[Sequence[TokenSequence]], str, Callable[[int], None]], list[list[float]]]  # see open_scorer


def reference_stage(store: Store, compute: Compute, reference: Policy, plan: Plan, *, layers: int) -> Stage:
    """Reply log-probs of the plan's sequences under the reference: `reference.json`, see `Reference`; and `frozen/`, the outputs of
    the layers that training leaves alone, the lowest `layers` (see train/frozen.py)."""

    def work(progress: Path, output: Path) -> dict[str, Any]:
        sums = _score(compute, reference, plan.passes, "reference log-probs", layers, output / "frozen")
        text = json.dumps(asdict(Reference.of(plan, sums)))
        (output / "reference.json").write_text(text, encoding="utf-8")
        return {"sequences": sum(map(len, plan.passes))} | plan.workload()

    numbers = {"lightning": compute.lightning, "dtype": compute.dtype, "frozen": layers}
    inputs = {"policy": reference.fingerprint, "sequences": plan.key}
    return store.run("reference", work, version=VERSION, settings=numbers, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Summed log-probs (nats) under the reference. `replies`: of each reply of each example of a plan. `mismatched`: of the plan's
    mismatched sequences, by step and batch."""

    replies: list[list[float]]
    mismatched: list[list[list[float]]]

    @classmethod
    def of(cls, plan: Plan, sums: Sequence[list[float]]) -> "Reference":
        """From the sums of every batch of `plan.passes`."""
        replies = [[math.nan] * len(one.sequences) for one in plan.examples]
        rest = iter(sums)
        for batch, values in zip(plan.batches, rest, strict=False):
            for (i, k), value in zip(plan.places(batch), values, strict=True):
                replies[i][k] = value
        return cls(replies=replies, mismatched=[[next(rest) for _ in step] for step in plan.mismatched])

    def sequences(self, plan: Plan, batch: Sequence[int]) -> list[float]:
        """Of a batch's sequences, in their order."""
        return [self.replies[i][k] for i, k in plan.places(batch)]


def recheck(compute: Compute, reference: Policy, plan: Plan, values: Reference) -> None:
    """Where the reference is not the start, the log-ratios of step 0 are not 0: the first sequences are scored once more
    instead."""
    first = plan.steps[0][0]
    (again,) = _score(compute, reference, [plan.sequences(first)], "reference check")
    off = [abs(a - b) for a, b in zip(values.sequences(plan, first), again, strict=True)]
    if not all(one <= 1e-4 for one in off):  # so that nan does not pass
        raise RuntimeError(
            f"Reference check failed: log-probs of the first sequences are off by {max(off):.2e} nats. Nothing was trained."
        )


def score_rows(compute: Compute, policy: Policy, sequences: Sequence[TokenSequence], label: str) -> list[float]:
    """Summed reply log-prob (nats) of every sequence, in the order given."""
    with Progress(label, total=len(sequences), unit="sequences") as bar, open_scorer(compute, policy) as score:
        return by_length(score, compute, sequences, label, bar.advance)


def by_length(
    score: Scorer, compute: Compute, sequences: Sequence[TokenSequence], label: str, tick: Callable[[int], None]
) -> list[float]:
    """Summed reply log-prob (nats) of every sequence, in the order given; computed sorted by length."""
    sizes = [len(sequence.prompt) + len(sequence.reply) for sequence in sequences]
    order = sorted(range(len(sequences)), key=lambda i: sizes[i])
    batches = cut(order, [sizes[i] for i in order], compute.tokens_per_batch)
    sums = score([[sequences[i] for i in batch] for batch in batches], label, tick)
    found = {i: value for batch, values in zip(batches, sums, strict=True) for i, value in zip(batch, values, strict=True)}
    return [found[i] for i in range(len(sequences))]


def _score(
    compute: Compute,
    policy: Policy,
    batches: Sequence[Sequence[TokenSequence]],
    label: str,
    layers: int = 0,
    folder: Path | None = None,
) -> list[list[float]]:
    """Summed reply log-probs of every batch's sequences."""
    total = sum(map(len, batches))
    with Progress(label, total=total, unit="sequences") as bar, open_scorer(compute, policy, layers, folder) as score:
        return score(batches, label, bar.advance)


@contextmanager
def open_scorer(compute: Compute, policy: Policy, layers: int = 0, folder: Path | None = None) -> Iterator[Scorer]:
    """Loads the policy; yields `score(batches, label, tick)`, the summed reply log-probs of every batch's sequences, finite
    numbers all; frees it. `tick(count)` is called with the sequences just done. Where `layers` > 0, what goes into that
    layer is kept in `folder`."""
    import torch
    from torch.utils.data import DataLoader

    from drift.model.policy import free, load_model, load_tokenizer
    from drift.score.module import ReferenceModule

    kind, dtype = compute.lightning, compute.dtype
    pad = load_tokenizer(policy).pad_token_id or 0
    loaded: list[Any] = []

    def score(batches: Sequence[Sequence[TokenSequence]], label: str, tick: Callable[[int], None]) -> list[list[float]]:
        collated: Any = [layout_module(compute.layout).collate(sequences, pad) for sequences in batches]
        with memory_advice("train.tokens_per_batch", compute.tokens_per_batch), kept(loaded[0], layers, folder):
            module = ReferenceModule(loaded[0], layout_module(compute.layout), tick)
            trainer = make_trainer(kind, enable_checkpointing=False)
            sums = trainer.predict(module, DataLoader(collated, batch_size=None), return_predictions=True)
        assert sums is not None
        numbers = torch.cat(sums).tolist()  # type: ignore[arg-type]
        replies = {f"the log-prob of reply {i}": value for i, value in enumerate(numbers, start=1)}
        need_finite(replies, label.capitalize(), broken_weights(policy.directory, "train.precision"))
        return [values.tolist() for values in sums]  # type: ignore[union-attr]

    try:
        with memory_advice("train.tokens_per_batch", compute.tokens_per_batch):
            loaded.append(load_model(policy, getattr(torch, dtype)))
        yield score
    finally:
        loaded.clear()
        free()
