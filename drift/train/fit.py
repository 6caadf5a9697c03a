"""Training, from a start policy to the next one, as a stage.

Every training has a fresh Lightning `Trainer` (a used one does nothing on its second `fit`). Trained parameters are float32
whatever the precision: bfloat16 weights lose small updates. A killed training resumes from its last checkpoint. With several ranks,
all of them run `fit` (parallel.py), and rank 0 writes.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drift.console import Progress, say
from drift.engine.ranks import everywhere, rank
from drift.errors import UserError
from drift.files import remove_unfinished
from drift.identity import identity
from drift.model.policy import Policy
from drift.records import digest, write_jsonl
from drift.score.plan import Plan, layout_module
from drift.score.reference import Reference, ReferenceDiffers, recheck
from drift.score.trainer import make_trainer
from drift.store import Stage, Store
from drift.train.disk import check_training
from drift.train.frozen import num_frozen, without_layers
from drift.train.settings import Train
from drift.train.steps import Steps, ordered_steps

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
        remove_unfinished(progress / LAST)
        num_steps, resumed = epochs * len(plan.steps), (progress / LAST).is_file()
        check_training(Path(store.dir), train, start, num_steps=num_steps, resumed=resumed)
        values = Reference(**json.loads(text))
        what = (dict(objectives), start, plan, values, scored.path / "frozen", progress, output, same, epochs)
        with from_elsewhere(scored):
            if not same:
                recheck(train.compute, reference, plan, values)
            return everywhere(fit, train, *what, here={"on_step": on_step})

    settings = train.key() | {"objectives": identity(objectives), "epochs": epochs, "check_start": same}
    inputs = {"policy": start.fingerprint, "rows": plan.key, "reference": digest(text)}
    return store.run("train", work, version=VERSION, settings=settings, inputs=inputs)


@contextmanager
def from_elsewhere(scored: Stage) -> Iterator[None]:
    """Says what to do where the reference's log-probs differ because another machine or other libraries have computed them."""
    try:
        yield
    except ReferenceDiffers as error:
        if not (other := scored.elsewhere()):
            raise
        raise UserError(
            f"{error} The reference's log-probs were computed in another environment ({', '.join(other)}), which may round "
            f"differently. Delete {scored.path}, and the same command computes them again."
        ) from error


def fit(
    train: Train,
    objectives: Mapping[str, Any],
    start: Policy,
    plan: Plan,
    reference: Reference,
    frozen: Path,
    progress: Path,
    output: Path,
    same: bool,
    epochs: int,
    on_step: OnStep = lambda history: None,
) -> dict[str, Any]:
    """Trains, and writes `policy/` and `steps.jsonl` to `output`; checkpoints go to `progress`, and training resumes from them.
    `same`: the reference is the start policy."""
    from drift.model.policy import free, load_tokenizer
    from drift.train.checkpoint import Checkpoints
    from drift.train.modules import PolicyModule

    tokenizer, model = load_tokenizer(start), trainable(train, start)
    steps, layers = ordered_steps(plan, epochs), num_frozen(train, start, plan)
    checkpoints = Checkpoints(progress.name.partition(".")[0])
    done = steps_done(checkpoints, progress / LAST, train)
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
    check_once(plan, steps[done:], loader.given, module.num_trained)
    check_gradients(module.history, objectives)
    module.check_weights()
    save(model, train, start, output / "policy")
    if rank() == 0:
        write_jsonl(output / "steps.jsonl", module.history)
    del module, model, loader
    free()
    work = plan.workload()
    return {"examples": len(plan.examples), "steps": len(steps)} | work | {"tokens": epochs * work["tokens"]}


def steps_done(checkpoints: Any, last: Path, train: Train) -> int:
    """The steps that a checkpoint has done, as rank 0 reads it. Where every device has all weights, every rank reads it."""
    from drift.train.parallel import is_sharded, told

    mine = checkpoints.steps_in(last) if rank() == 0 or not is_sharded(train.strategy) else 0
    done = told(mine)
    assert rank() == 0 or is_sharded(train.strategy) or mine == done, f"{last} is not the same file for all ranks"
    return done


def check_once(plan: Plan, steps: list[int], given: Counter[int], num_trained: int) -> None:
    """Makes sure that the ranks together have trained on each example once an epoch. `given`: how often this rank was given it;
    `num_trained`: examples in all losses."""
    from drift.train.parallel import everyones

    expected = Counter(i for index in steps for batch in plan.steps[index] for i in batch)
    found = sum(everyones(given), Counter[int]())
    wrong = [f"example {i} {found[i]} times instead of {expected[i]}" for i in expected | found if expected[i] != found[i]]
    if wrong or num_trained != expected.total():
        what = wrong[0] if wrong else f"{num_trained} examples instead of {expected.total()}"
        raise RuntimeError(f"Training has counted {what}. The policy is not kept.")


def save(model: Any, train: Train, start: Policy, directory: Path) -> None:
    """Rank 0 writes the policy; weights that are divided among the ranks are brought together for that, each once."""
    from drift.model.policy import save_policy
    from drift.train.parallel import collected, is_sharded

    weights = None
    if is_sharded(train.strategy):
        held = model.state_dict(keep_vars=True)
        once = {id(tensor): name for name, tensor in reversed(held.items())}  # tied weights have two names: the first one stays
        kept = {name: held[name] for name in reversed(once.values()) if train.adapter is None or held[name].requires_grad}
        weights = collected(kept)
    if rank() == 0:
        save_policy(model, start, directory, weights)


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

    from drift.train.parallel import strategy_of

    train = module.settings
    every = {"every_n_train_steps": train.checkpoint_every_steps}
    save = ModelCheckpoint(dirpath=folder, filename=Path(LAST).stem, enable_version_counter=False, **every)
    devices = strategy_of(train.strategy)
    trainer = make_trainer(train.compute.lightning, callbacks=[save], max_epochs=1, plugins=[checkpoints], **devices)
    trainer.fit(module, loader, ckpt_path=folder / LAST if resume else None, weights_only=True)


def trainable(train: Train, start: Policy) -> Any:
    """The start policy's model, ready to train all parameters, those of its own adapter, or those of a new adapter. Before weights
    are divided among ranks, those to be trained stay in bfloat16 if their files are, and are read only where they are used."""
    import torch

    from drift.model.files import tensors
    from drift.model.policy import load_model
    from drift.train.parallel import is_sharded

    assert train.adapter is not None or not start.is_adapter  # refused before anything ran
    divided, dtype = is_sharded(train.strategy), getattr(torch, train.compute.dtype)
    if divided and train.adapter is None:
        kinds = {kind for file in start.base.glob("*.safetensors") for kind, _ in tensors(file).values()}
        dtype = torch.bfloat16 if kinds == {"BF16"} else dtype  # `shard` makes them as wide as training wants them
    model = load_model(start, dtype, trainable=True, on_host=divided)
    return train.adapter.attach(model) if train.adapter is not None and not start.is_adapter else model
