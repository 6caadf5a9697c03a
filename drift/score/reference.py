"""Log-probabilities under a frozen model: the reference pass over a plan, and those of any sequences.

Each pass is a fresh Lightning `Trainer.predict` on sequences laid out as in training, so the numbers equal training's own.
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
from drift.score.frozen_outputs import save_outputs
from drift.score.plan import Plan, layout_module
from drift.score.sequence import Compute, TokenSequence
from drift.score.trainer import make_trainer
from drift.store import Stage, Store

VERSION = 3
LogprobsOf = Callable[[Sequence[Sequence[TokenSequence]], str, Callable[[int], None]], list[list[float]]]  # see open_logprobs


def reference_stage(store: Store, compute: Compute, reference: Policy, plan: Plan, *, layers: int) -> Stage:
    """The reply log-probs of the plan's sequences under the reference: `reference.json` (see `Reference`), and `frozen/`, the
    outputs of the lowest `layers` layers, which training does not change (see train/frozen.py)."""

    def work(progress: Path, output: Path) -> dict[str, Any]:
        sums = _logprobs(compute, reference, plan.passes, "reference log-probs", layers, output / "frozen")
        text = json.dumps(asdict(Reference.of(plan, sums)))
        (output / "reference.json").write_text(text, encoding="utf-8")
        return {"sequences": sum(map(len, plan.passes))} | plan.workload()

    numbers = {"lightning": compute.lightning, "dtype": compute.dtype, "frozen": layers}
    inputs = {"policy": reference.fingerprint, "sequences": plan.key}
    return store.run("reference", work, version=VERSION, settings=numbers, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Summed log-probs (nats) under the reference. `replies`: by example and reply of a plan. `mismatched`: by step, batch and
    sequence of the plan's mismatched sequences."""

    replies: list[list[float]]
    mismatched: list[list[list[float]]]

    @classmethod
    def of(cls, plan: Plan, sums: Sequence[list[float]]) -> "Reference":
        """Made from the sums of every batch of `plan.passes`."""
        replies = [[math.nan] * len(one.sequences) for one in plan.examples]
        rest = iter(sums)
        for batch, values in zip(plan.batches, rest, strict=False):
            for (i, k), value in zip(plan.places(batch), values, strict=True):
                replies[i][k] = value
        return cls(replies=replies, mismatched=[[next(rest) for _ in step] for step in plan.mismatched])

    def sequences(self, plan: Plan, batch: Sequence[int]) -> list[float]:
        """The sums of a batch's sequences, in their order."""
        return [self.replies[i][k] for i, k in plan.places(batch)]


def recheck(compute: Compute, reference: Policy, plan: Plan, values: Reference) -> None:
    """Computes the first batch once more. This replaces the check of step 0 where the reference is not the start policy, so that
    the log-ratios of step 0 are not 0."""
    first = plan.steps[0][0]
    (again,) = _logprobs(compute, reference, [plan.sequences(first)], "reference check")
    errors = [abs(a - b) for a, b in zip(values.sequences(plan, first), again, strict=True)]
    if not all(error <= 1e-4 for error in errors):  # written so that NaN does not pass
        raise RuntimeError(
            f"Reference check failed: log-probs of the first sequences are off by {max(errors):.2e} nats. Nothing was trained."
        )


def sequence_logprobs(compute: Compute, policy: Policy, sequences: Sequence[TokenSequence], label: str) -> list[float]:
    """The summed reply log-prob (nats) of every sequence, in the given order."""
    with Progress(label, total=len(sequences), unit="sequences") as bar, open_logprobs(compute, policy) as logprobs_of:
        return by_length(logprobs_of, compute, sequences, label, bar.advance)


def by_length(
    logprobs_of: LogprobsOf, compute: Compute, sequences: Sequence[TokenSequence], label: str, tick: Callable[[int], None]
) -> list[float]:
    """The summed reply log-prob (nats) of every sequence, in the given order; computed in batches of similar length."""
    sizes = [len(sequence.prompt) + len(sequence.reply) for sequence in sequences]
    order = sorted(range(len(sequences)), key=lambda i: sizes[i])
    batches = cut(order, [sizes[i] for i in order], compute.tokens_per_batch)
    sums = logprobs_of([[sequences[i] for i in batch] for batch in batches], label, tick)
    by_index = {i: value for batch, values in zip(batches, sums, strict=True) for i, value in zip(batch, values, strict=True)}
    return [by_index[i] for i in range(len(sequences))]


def _logprobs(
    compute: Compute,
    policy: Policy,
    batches: Sequence[Sequence[TokenSequence]],
    label: str,
    layers: int = 0,
    folder: Path | None = None,
) -> list[list[float]]:
    """The summed reply log-probs of every batch's sequences."""
    total = sum(map(len, batches))
    with Progress(label, total=total, unit="sequences") as bar, open_logprobs(compute, policy, layers, folder) as logprobs_of:
        return logprobs_of(batches, label, bar.advance)


@contextmanager
def open_logprobs(compute: Compute, policy: Policy, layers: int = 0, folder: Path | None = None) -> Iterator[LogprobsOf]:
    """Loads the policy; yields `logprobs_of(batches, label, tick)`, the summed reply log-probs of every batch's sequences, all
    finite; frees it. `tick(count)` is called with the number of sequences just done. If `layers` > 0, the inputs of that layer
    are saved in `folder`."""
    import torch
    from torch.utils.data import DataLoader

    from drift.model.policy import free, load_model, load_tokenizer
    from drift.score.module import ReferenceModule

    kind, dtype = compute.lightning, compute.dtype
    pad = load_tokenizer(policy).pad_token_id or 0
    loaded: list[Any] = []

    def logprobs_of(batches: Sequence[Sequence[TokenSequence]], label: str, tick: Callable[[int], None]) -> list[list[float]]:
        collated: Any = [layout_module(compute.layout).collate(sequences, pad) for sequences in batches]
        with memory_advice("train.tokens_per_batch", compute.tokens_per_batch), save_outputs(loaded[0], layers, folder):
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
        yield logprobs_of
    finally:
        loaded.clear()
        free()
