"""Training, from a start policy to the next one, as a stage.

A fresh Lightning `Trainer` every time (a used one does nothing on its second `fit`). Trained parameters are float32 whatever
the precision: bfloat16 weights lose small updates. A killed training resumes from its last checkpoint.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from drift.console import Progress, say
from drift.identity import identity
from drift.model.policy import Policy
from drift.randomness import order
from drift.records import digest, write_jsonl
from drift.score.kept import load
from drift.score.plan import Plan, layout_module
from drift.score.reference import Reference, recheck
from drift.score.sequence import TokenSequence
from drift.score.trainer import make_trainer
from drift.store import Stage, Store
from drift.train.frozen import num_frozen, removed
from drift.train.settings import Train

VERSION = 8
Watch = Callable[[list[dict[str, float]]], None]


def train_stage(
    store: Store, train: Train, objectives: Mapping[str, Any], start: Policy, reference: Policy, plan: Plan, scored: Stage,
    *, epochs: int, watch: Watch,
) -> Stage:  # fmt: skip
    """The next policy: `policy/` and `steps.jsonl` (one row of metrics a step). `scored`: the reference's stage. `watch` sees the
    metrics of all steps so far after every step; what it raises ends the training, which goes on from there when run again."""
    text = (scored.path / "reference.json").read_text(encoding="utf-8")
    same = reference == start

    def work(progress: Path, output: Path) -> dict[str, Any]:
        values = Reference(**json.loads(text))
        if not same:
            recheck(train.compute, reference, plan, values)
        how = {"same": same, "epochs": epochs, "watch": watch}
        return fit(train, objectives, start, plan, values, scored.path / "frozen", progress, output, **how)

    settings = train.key() | {"objectives": identity(objectives), "epochs": epochs, "check_start": same}
    inputs = {"policy": start.fingerprint, "rows": plan.key, "reference": digest(text)}
    return store.run("train", work, version=VERSION, settings=settings, inputs=inputs)


def fit(
    train: Train,
    objectives: Mapping[str, Any],
    start: Policy,
    plan: Plan,
    reference: Reference,
    frozen: Path,
    progress: Path,
    output: Path,
    *,
    same: bool,
    epochs: int,
    watch: Watch,
) -> dict[str, Any]:
    """Trains, and writes `policy/` and `steps.jsonl` to `output`; checkpoints go to `progress`, and are resumed from."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    from drift.model.policy import free, load_tokenizer, save_policy
    from drift.train.checkpoint import Checkpoints
    from drift.train.modules import PolicyModule

    kind = train.compute.lightning
    tokenizer, model = load_tokenizer(start), trainable(train, start)
    steps = ordered_steps(plan, epochs)
    layers = num_frozen(train, start, plan)

    every, saved, checkpoints = train.checkpoint_every_steps, progress / "last.ckpt", Checkpoints(progress.name.partition(".")[0])
    done = checkpoints.steps_in(saved)
    if done:
        say(f"  training goes on at step {done + 1} of {len(steps)}")

    def after_step(history: list[dict[str, float]]) -> None:
        bar.saved = len(history) - len(history) % every
        bar.advance(1, f"loss {history[-1]['loss']:.3f}")
        watch(history)

    with Progress("training", total=len(steps), unit="steps", begun=done) as bar, removed(model, layers):
        module = PolicyModule(
            model,
            train,
            objectives,
            layout_module(plan.layout),
            num_steps=len(steps),
            check_start=same,
            on_step=after_step,
        )
        loader = Steps(module, plan, steps, reference, frozen if layers else None, tokenizer.pad_token_id or 0)
        keep = ModelCheckpoint(dirpath=progress, filename="last", every_n_train_steps=every, enable_version_counter=False)
        trainer = make_trainer(kind, callbacks=[keep], max_epochs=1, plugins=[checkpoints])
        trainer.fit(module, loader, ckpt_path=saved if done else None, weights_only=True)
    assert len(module.history) == len(steps), "training ended early"
    module.check_weights()
    save_policy(model, start, output / "policy")
    write_jsonl(output / "steps.jsonl", module.history)
    del trainer, module, model, loader
    free()
    work = plan.workload()
    return {"examples": len(plan.examples), "steps": len(steps)} | work | {"tokens": epochs * work["tokens"]}


def trainable(train: Train, start: Policy) -> Any:
    """The start policy's model with the parameters that are trained: its own adapter's, a new one's, or all."""
    import torch

    from drift.model.policy import load_model

    assert train.adapter is not None or not start.is_adapter  # refused before anything ran
    model = load_model(start, getattr(torch, train.compute.dtype), trainable=True)
    return train.adapter.attach(model) if train.adapter is not None and not start.is_adapter else model


class Steps:
    """The loader of `PolicyModule`: one optimiser step an item, from the first one that the module has not done yet."""

    def __init__(self, module: Any, plan: Plan, steps: list[int], reference: Reference, frozen: Path | None, pad_id: int) -> None:
        self.module, self.plan, self.steps, self.reference, self.pad_id = module, plan, steps, reference, pad_id
        self.frozen = frozen

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[dict[str, list[dict[str, Any]]]]:
        plan = self.plan
        before = [0, *accumulate(map(len, plan.steps))]  # batches before a step
        others = [*accumulate(map(len, plan.mismatched), initial=len(plan.batches))]  # of them before its mismatched ones
        for done, index in enumerate(self.steps[len(self.module.history) :], start=len(self.module.history)):
            batches, alone = [], []
            for number, batch in enumerate(plan.steps[index], start=before[index]):
                batches.append(self._batch(batch, number))
                alone += self._one_by_one(batch, batches[-1]) if self.module.measured(done) else []
            mismatched = []
            for k, sequences in enumerate(plan.mismatched[index] if plan.mismatched else ()):
                mismatched.append(self._tensors(sequences, self.reference.mismatched[index][k], others[index] + k))
            yield {"batches": batches, "alone": alone, "mismatched": mismatched}

    def _batch(self, batch: list[int], number: int | None) -> dict[str, Any]:
        """The tensors of examples, with their labels; `number`: of their batch among the plan's passes, for its frozen layers."""
        places = self.plan.places(batch)
        labels = {
            "good": tuple(self.plan.examples[i].good[k] for i, k in places),
            "example": tuple(batch.index(i) for i, _ in places),
        }
        return self._tensors(self.plan.sequences(batch), self.reference.sequences(self.plan, batch), number) | labels

    def _tensors(self, sequences: list[TokenSequence], reference: list[float], number: int | None) -> dict[str, Any]:
        import torch

        tensors = self.module.layout.collate(sequences, self.pad_id) | {"reference": torch.tensor(reference)}
        return tensors | ({"hidden": load(self.frozen, number)} if self.frozen and number is not None else {})

    def _one_by_one(self, batch: list[int], whole: dict[str, Any]) -> list[dict[str, Any]]:
        """The examples of a batch, each a batch of its own."""
        found = [self._batch([i], None) for i in batch]
        if "hidden" in whole:
            for number, one in enumerate(found):
                rows = [place for place, owner in enumerate(whole["example"]) if owner == number]
                one["hidden"] = whole["hidden"][self.module.layout.tokens_of(whole, rows)]
        return found

    def state_dict(self) -> dict[str, Any]:  # the module's history says where to go on; these two say to Lightning that we know
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def ordered_steps(plan: Plan, epochs: int) -> list[int]:
    """Step indices of all epochs: the plan's order first, then the same steps shuffled anew."""
    names = [str(step) for step in plan.steps]
    later = [order(epoch, "epoch", 0, names) for epoch in range(1, epochs)]
    return [*range(len(names)), *(i for epoch in later for i in epoch)]
