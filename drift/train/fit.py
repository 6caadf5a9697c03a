"""Training, from a start policy to the next one, as a stage.

Every training has a fresh Lightning `Trainer` (a used one does nothing on its second `fit`). Trained parameters are float32
whatever the precision: bfloat16 weights lose small updates. A killed training resumes from its last checkpoint.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from drift.console import Progress, say
from drift.errors import UserError
from drift.identity import identity
from drift.model.policy import Policy
from drift.randomness import order
from drift.records import digest, write_jsonl
from drift.score.frozen_outputs import load_output
from drift.score.plan import Plan, layout_module
from drift.score.reference import Reference, recheck
from drift.score.sequence import TokenSequence
from drift.score.trainer import make_trainer
from drift.store import Stage, Store
from drift.train.disk import check_training
from drift.train.frozen import num_frozen, without_layers
from drift.train.settings import Train

VERSION = 8
LAST = "last.ckpt"  # the last checkpoint
OnStep = Callable[[list[dict[str, float]]], None]


def train_stage(
    store: Store, train: Train, objectives: Mapping[str, Any], start: Policy, reference: Policy, plan: Plan, scored: Stage,
    *, epochs: int, on_step: OnStep,
) -> Stage:  # fmt: skip
    """The next policy: `policy/` and `steps.jsonl` (a line of metrics per step). `scored`: the stage of the reference pass.
    `on_step` is called after every step with the metrics of all steps so far; an exception from it ends the training, which resumes
    there when it is run again."""
    text = (scored.path / "reference.json").read_text(encoding="utf-8")
    same = reference == start

    def work(progress: Path, output: Path) -> dict[str, Any]:
        num_steps, resumed = epochs * len(plan.steps), (progress / LAST).is_file()
        check_training(Path(store.dir), train, start, num_steps=num_steps, resumed=resumed)
        values = Reference(**json.loads(text))
        if not same:
            recheck(train.compute, reference, plan, values)
        how = {"same": same, "epochs": epochs, "on_step": on_step}
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
    on_step: OnStep,
) -> dict[str, Any]:
    """Trains, and writes `policy/` and `steps.jsonl` to `output`; checkpoints go to `progress`, and training resumes from them.
    `same`: the reference is the start policy."""
    from drift.model.policy import free, load_tokenizer, save_policy
    from drift.train.checkpoint import Checkpoints
    from drift.train.modules import PolicyModule

    tokenizer, model = load_tokenizer(start), trainable(train, start)
    steps, layers = ordered_steps(plan, epochs), num_frozen(train, start, plan)
    checkpoints = Checkpoints(progress.name.partition(".")[0])
    done = checkpoints.steps_in(progress / LAST)
    if done:
        say(f"  Training resumes at step {done + 1} of {len(steps)}.")

    def after_step(history: list[dict[str, float]]) -> None:
        bar.saved = len(history) - len(history) % train.checkpoint_every_steps
        bar.advance(1, f"loss {history[-1]['loss']:.3f}")
        on_step(history)

    layout = layout_module(plan.layout)
    with Progress("training", total=len(steps), unit="steps", begun=done) as bar, without_layers(model, layers):
        module = PolicyModule(model, train, objectives, layout, len(steps), check_start=same, on_step=after_step)
        loader = Steps(module, plan, steps, reference, frozen if layers else None, tokenizer.pad_token_id or 0)
        run_steps(module, loader, checkpoints, progress, resume=done > 0)
    assert len(module.history) == len(steps), "training ended early"
    check_gradients(module.history, objectives)
    module.check_weights()
    save_policy(model, start, output / "policy")
    write_jsonl(output / "steps.jsonl", module.history)
    del module, model, loader
    free()
    work = plan.workload()
    return {"examples": len(plan.examples), "steps": len(steps)} | work | {"tokens": epochs * work["tokens"]}


def check_gradients(history: list[dict[str, float]], objectives: Mapping[str, Any]) -> None:
    """Refuses a training in which no step changed anything: a policy that equals its start would pass for a result."""
    if not any(step["grad_norm"] for step in history):
        raise UserError(
            f"Nothing was learnt: objective=[{','.join(objectives)}] had no gradient in any of {len(history)} steps. Negative "
            "log-likelihood (nll) learns from good replies alone; for a log of complaints use method=drift, or objective=[kto]."
        )


def run_steps(module: Any, loader: "Steps", checkpoints: Any, folder: Path, *, resume: bool) -> None:
    """Runs a `PolicyModule` over all steps, or over those after the last checkpoint in `folder`."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    train = module.settings
    every = {"every_n_train_steps": train.checkpoint_every_steps}
    save = ModelCheckpoint(dirpath=folder, filename=Path(LAST).stem, enable_version_counter=False, **every)
    trainer = make_trainer(train.compute.lightning, callbacks=[save], max_epochs=1, plugins=[checkpoints])
    trainer.fit(module, loader, ckpt_path=folder / LAST if resume else None, weights_only=True)


def trainable(train: Train, start: Policy) -> Any:
    """The start policy's model, ready to train all parameters, those of its own adapter, or those of a new adapter."""
    import torch

    from drift.model.policy import load_model

    assert train.adapter is not None or not start.is_adapter  # refused before anything ran
    model = load_model(start, getattr(torch, train.compute.dtype), trainable=True)
    return train.adapter.attach(model) if train.adapter is not None and not start.is_adapter else model


class Steps:
    """The loader of `PolicyModule`: one optimiser step per item, from the first step that the module has not done yet."""

    def __init__(self, module: Any, plan: Plan, steps: list[int], reference: Reference, frozen: Path | None, pad_id: int) -> None:
        self.module, self.plan, self.steps, self.reference, self.pad_id = module, plan, steps, reference, pad_id
        self.frozen = frozen

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[dict[str, list[dict[str, Any]]]]:
        plan = self.plan
        first = [0, *accumulate(map(len, plan.steps))]  # of each step: the number of its first batch in `plan.passes`
        first_mismatched = [*accumulate(map(len, plan.mismatched), initial=len(plan.batches))]
        for done, index in enumerate(self.steps[len(self.module.history) :], start=len(self.module.history)):
            batches, singles = [], []
            for number, batch in enumerate(plan.steps[index], start=first[index]):
                batches.append(self._batch(batch, number))
                singles += self._one_by_one(batch, batches[-1]) if self.module.measured(done) else []
            mismatched = []
            for k, sequences in enumerate(plan.mismatched[index] if plan.mismatched else ()):
                mismatched.append(self._tensors(sequences, self.reference.mismatched[index][k], first_mismatched[index] + k))
            yield {"batches": batches, "singles": singles, "mismatched": mismatched}

    def _batch(self, batch: list[int], number: int | None) -> dict[str, Any]:
        """The tensors of examples, with their labels; `number`: that of their batch in `plan.passes`, to load frozen outputs."""
        import torch

        places = self.plan.places(batch)
        labels: dict[str, Any] = {
            "good": tuple(self.plan.examples[i].good[k] for i, k in places),
            "example": tuple(batch.index(i) for i, _ in places),
        }
        if hindsight := self.reference.hindsight_tokens(self.plan, batch):
            labels["hindsight"] = torch.tensor(hindsight)
        return self._tensors(self.plan.sequences(batch), self.reference.sequences(self.plan, batch), number) | labels

    def _tensors(self, sequences: list[TokenSequence], reference: list[float], number: int | None) -> dict[str, Any]:
        import torch

        tensors = self.module.layout.collate(sequences, self.pad_id) | {"reference": torch.tensor(reference)}
        return tensors | ({"hidden": load_output(self.frozen, number)} if self.frozen and number is not None else {})

    def _one_by_one(self, batch: list[int], tensors: dict[str, Any]) -> list[dict[str, Any]]:
        """The examples of a batch, each as a batch of its own. `tensors`: those of the whole batch."""
        singles = [self._batch([i], None) for i in batch]
        if "hidden" in tensors:
            for number, single in enumerate(singles):
                sequences = [i for i, example in enumerate(tensors["example"]) if example == number]
                single["hidden"] = tensors["hidden"][self.module.layout.tokens_of(tensors, sequences)]
        return singles

    def state_dict(self) -> dict[str, Any]:  # the module's history says where to resume; without these two Lightning would warn
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def ordered_steps(plan: Plan, epochs: int) -> list[int]:
    """The step indices of all epochs: first in the plan's order, then shuffled again for each further epoch."""
    names = [str(step) for step in plan.steps]
    further = [order(epoch, "epoch", 0, names) for epoch in range(1, epochs)]
    return [*range(len(names)), *(i for epoch in further for i in epoch)]
