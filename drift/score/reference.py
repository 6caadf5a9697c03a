"""Log-probabilities under a frozen model: the reference pass over a plan, and those of any sequences.

Each pass is a fresh Lightning `Trainer.predict` on sequences laid out as in training, so the numbers equal training's own. Several
ranks share out the batches, each with a model of its own; the batches stay the same, and so do the numbers.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from drift.batches import cut, slices
from drift.console import Progress
from drift.engine.ranks import share, world
from drift.errors import memory_advice
from drift.finite import broken_weights, need_finite
from drift.model.policy import Policy
from drift.score.frozen_outputs import save_outputs
from drift.score.plan import Plan, layout_module
from drift.score.sequence import Compute, TokenSequence
from drift.score.trainer import make_trainer
from drift.store import Stage, Store

VERSION = 4
LogprobsOf = Callable[[Sequence[Sequence[TokenSequence]], str, Callable[[int], None]], list[list[Any]]]  # see open_logprobs


class ReferenceDiffers(RuntimeError):
    """Log-probs that were kept are not those that are computed now."""


def reference_stage(store: Store, compute: Compute, reference: Policy, plan: Plan, *, layers: int) -> Stage:
    """The reply log-probs of the plan's sequences under the reference: `reference.json` (see `Reference`), and `frozen/`, the
    outputs of the lowest `layers` layers, which training does not change (see train/frozen.py)."""

    def work(progress: Path, output: Path) -> dict[str, Any]:
        sums = _logprobs(compute, reference, plan.passes, "reference log-probs", layers, output / "frozen")
        hindsight = [sequence for one in plan.examples for sequence in one.hindsight]
        tokens = iter(token_logprobs(compute, reference, hindsight, "hindsight log-probs"))
        values = replace(Reference.of(plan, sums), hindsight=[[next(tokens) for _ in one.hindsight] for one in plan.examples])
        (output / "reference.json").write_text(json.dumps(asdict(values)), encoding="utf-8")
        return {"sequences": sum(map(len, plan.passes)) + len(hindsight)} | plan.workload()

    numbers = {"lightning": compute.lightning, "dtype": compute.dtype, "frozen": layers}
    inputs = {"policy": reference.fingerprint, "sequences": plan.key}
    return store.run("reference", work, version=VERSION, settings=numbers, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Summed log-probs (nats) under the reference. `replies`: by example and reply of a plan. `mismatched`: by step, batch and
    sequence of the plan's mismatched sequences. `hindsight`: those of single tokens, by example, reply and token, under the
    reference that has read the user's feedback; no reply has any where the examples have no `hindsight`."""

    replies: list[list[float]]
    mismatched: list[list[list[float]]]
    hindsight: list[list[list[float]]] = field(default_factory=list)

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

    def hindsight_tokens(self, plan: Plan, batch: Sequence[int]) -> list[float]:
        """Those of the tokens of a batch's sequences, one sequence after another."""
        return [value for i, k in plan.places(batch) if plan.examples[i].hindsight for value in self.hindsight[i][k]]


def check_start(ratio: float) -> None:
    """Before the first update policy and reference are the same: every log-ratio is 0, so DPO's loss is ln 2."""
    if not ratio <= 1e-5:  # written so that NaN does not pass
        raise ReferenceDiffers(
            f"Step-0 check failed: the log-probs of replies differ from the reference's by {ratio:.2e} nats, expected 0 (a DPO "
            "loss of ln 2). The reference log-probs were not computed with the weights that training starts from, or the model is "
            "not deterministic (dropout?). Nothing was trained."
        )


def recheck(compute: Compute, reference: Policy, plan: Plan, values: Reference) -> None:
    """Computes the first batch once more. This replaces the check of step 0 where the reference is not the start policy, so that
    the log-ratios of step 0 are not 0."""
    first = plan.steps[0][0]
    (again,) = _logprobs(compute, reference, [plan.sequences(first)], "reference check")
    errors = [abs(a - b) for a, b in zip(values.sequences(plan, first), again, strict=True)]
    if not all(error <= 1e-4 for error in errors):  # written so that NaN does not pass
        raise ReferenceDiffers(
            f"Reference check failed: log-probs of the first sequences are off by {max(errors):.2e} nats. Nothing was trained."
        )


def sequence_logprobs(compute: Compute, policy: Policy, sequences: Sequence[TokenSequence], label: str) -> list[float]:
    """The summed reply log-prob (nats) of every sequence, in the given order."""
    return by_length(partial(_logprobs, compute, policy), compute, sequences, label)


def token_logprobs(compute: Compute, policy: Policy, sequences: Sequence[TokenSequence], label: str) -> list[list[float]]:
    """The log-probs (nats) of every sequence's reply tokens, in the given order. Without a sequence no model is loaded."""
    return by_length(partial(_logprobs, compute, policy, per_token=True), compute, sequences, label)


def by_length(
    logprobs_of: Callable[..., list[list[Any]]], compute: Compute, sequences: Sequence[TokenSequence], *others: Any
) -> list[Any]:
    """What `logprobs_of(batches, *others)` gives for every sequence, in the given order; in batches of similar length."""
    sizes = [len(sequence.prompt) + len(sequence.reply) for sequence in sequences]
    order = sorted(range(len(sequences)), key=lambda i: sizes[i])
    batches = cut(order, [sizes[i] for i in order], compute.tokens_per_batch)
    sums = logprobs_of([[sequences[i] for i in batch] for batch in batches], *others)
    by_index = {i: value for batch, values in zip(batches, sums, strict=True) for i, value in zip(batch, values, strict=True)}
    return [by_index[i] for i in range(len(sequences))]


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What every rank computes of its batches; see `open_logprobs`."""

    compute: Compute
    policy: Policy
    layers: int
    folder: Path | None
    per_token: bool
    label: str


def _logprobs(
    compute: Compute,
    policy: Policy,
    batches: Sequence[Sequence[TokenSequence]],
    label: str,
    layers: int = 0,
    folder: Path | None = None,
    per_token: bool = False,
) -> list[list[Any]]:
    """The summed reply log-probs of every batch's sequences, or those of all their tokens. A rank takes batches that follow one
    another, about the same number of tokens as the others."""
    what = Pass(compute=compute, policy=policy, layers=layers, folder=folder, per_token=per_token, label=label)
    parts = slices([layout_module(compute.layout).num_tokens(sequences) for sequences in batches], world())
    found = share(partial(_part, what), [(part.start, [batches[i] for i in part]) for part in parts])
    return [values for part in found for values in part]


def _part(what: Pass, part: tuple[int, Sequence[Sequence[TokenSequence]]]) -> list[list[Any]]:
    """The log-probs of some batches; `part`: (the number of the first one, the batches)."""
    first, batches = part
    if not batches:
        return []
    opened = open_logprobs(what.compute, what.policy, what.layers, what.folder, what.per_token, first)
    with Progress(what.label, total=sum(map(len, batches)), unit="sequences") as bar, opened as logprobs_of:
        return logprobs_of(batches, what.label, bar.advance)


@contextmanager
def open_logprobs(
    compute: Compute, policy: Policy, layers: int = 0, folder: Path | None = None, per_token: bool = False, first: int = 0
) -> Iterator[LogprobsOf]:
    """Loads the policy; yields `logprobs_of(batches, label, tick)`, the summed reply log-probs of every batch's sequences, all
    finite (`per_token`: for each sequence the list of its reply tokens' log-probs); frees it. `tick(count)` is called with the
    number of sequences just done. If `layers` > 0, the inputs of that layer are saved in `folder`, those of the first batch under
    the number `first`."""
    import torch
    from torch.utils.data import DataLoader

    from drift.model.policy import free, load_model, load_tokenizer
    from drift.score.module import ReferenceModule

    kind, dtype = compute.lightning, compute.dtype
    pad = load_tokenizer(policy).pad_token_id or 0
    loaded: list[Any] = []

    def logprobs_of(batches: Sequence[Sequence[TokenSequence]], label: str, tick: Callable[[int], None]) -> list[list[Any]]:
        collated: Any = [layout_module(compute.layout).collate(sequences, pad) for sequences in batches]
        with memory_advice("train.tokens_per_batch", compute.tokens_per_batch), save_outputs(loaded[0], layers, folder, first):
            module = ReferenceModule(loaded[0], layout_module(compute.layout), tick, per_token)
            trainer = make_trainer(kind, enable_checkpointing=False)
            found: Any = trainer.predict(module, DataLoader(collated, batch_size=None), return_predictions=True)
        numbers = torch.cat(found).tolist()
        named = {f"the log-prob of {'token' if per_token else 'reply'} {i}": value for i, value in enumerate(numbers, start=1)}
        need_finite(named, label.capitalize(), broken_weights(policy.directory, "train.precision"))
        if not per_token:
            return [values.tolist() for values in found]
        lengths = ([len(sequence.reply) for sequence in sequences] for sequences in batches)
        return [[part.tolist() for part in values.split(sizes)] for values, sizes in zip(found, lengths, strict=True)]

    try:
        loaded.append(load_model(policy, getattr(torch, dtype)))
        yield logprobs_of
    finally:
        loaded.clear()
        free()
