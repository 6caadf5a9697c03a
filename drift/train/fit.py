"""Training stages: the reference pass over a row plan, and DPO from a start policy to the next one.

Every pass uses a fresh Lightning `Trainer` (a used one does nothing on its second `fit`). Trained parameters are float32
whatever the precision: bfloat16 weights lose small updates. A killed training resumes from its last checkpoint.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from drift.errors import UserError, memory_advice
from drift.model import precision
from drift.model.policy import Policy
from drift.records import digest
from drift.report.console import Progress
from drift.sampler.noise import order
from drift.store import Stage, Store
from drift.train.lora import Lora
from drift.train.rows import PairRows, Plan, Row, collate, collate_pairs

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a policy is trained. Loss = DPO(`beta`) + `nll_weight` * NLL(chosen). `epochs`: over an iteration's pairs.
    `pairs_per_step`: pairs of one optimiser step. `pairs_per_batch`: pairs in memory at once (does not change the result
    beyond rounding). `warmup_share`: of the steps; the rate then falls linearly to `final_rate_share` of itself.
    `max_tokens`: records whose prompt and reply (or room for a fresh one) are longer are not used. `adapter`: null trains
    all weights."""

    learning_rate: float
    optimizer: Literal["adamw", "rmsprop"]
    beta: float
    nll_weight: float
    epochs: int
    pairs_per_step: int
    pairs_per_batch: int
    warmup_share: float
    final_rate_share: float
    max_grad_norm: float
    gradient_checkpointing: bool
    precision: precision.Precision
    max_tokens: int
    checkpoint_every_steps: int
    adapter: Lora | None

    def check(self) -> None:
        for name in ("epochs", "pairs_per_step", "pairs_per_batch", "max_tokens", "checkpoint_every_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name}={getattr(self, name)}: expected at least 1.")
        if self.learning_rate <= 0 or self.beta <= 0 or self.nll_weight < 0 or self.max_grad_norm <= 0:
            raise UserError("train: expected learning_rate, beta and max_grad_norm above 0, and nll_weight at least 0.")
        if not (0 <= self.warmup_share < 1 and 0 <= self.final_rate_share <= 1):
            raise UserError("train: expected warmup_share in [0, 1) and final_rate_share in [0, 1].")
        if self.adapter is not None:
            self.adapter.check()

    def key(self) -> dict[str, Any]:
        """The settings that a trained policy depends on, given its rows."""
        without = {
            "pairs_per_step",
            "pairs_per_batch",
            "max_tokens",
            "checkpoint_every_steps",
        }  # all in the rows, or no matter
        kept = {name: value for name, value in asdict(self).items() if name not in without}
        return kept | {"precision": precision.resolve(self.precision)}

    def dtype(self) -> tuple[str, Any]:
        """(Lightning precision, dtype to load weights in). Full training keeps float32 weights and computes under autocast;
        with an adapter the frozen base itself is bfloat16."""
        if precision.resolve(self.precision) == "float32":
            return "32-true", "float32"
        return ("32-true", "bfloat16") if self.adapter is not None else ("bf16-mixed", "float32")


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


def train_stage(store: Store, train: Train, start: Policy, reference: Policy, plan: Plan, scored: Stage, *, epochs: int) -> Stage:
    """The next policy: `policy/` and `steps.jsonl` (one row of metrics a step). `scored`: the reference's stage."""
    text = (scored.path / "reference.json").read_text(encoding="utf-8")
    same = reference == start

    def work(progress: Path, output: Path) -> dict[str, Any]:
        values = json.loads(text)
        if not same:
            recheck(train, reference, plan, values)
        return fit(train, start, plan, values, progress, output, same=same, epochs=epochs)

    settings = train.key() | {"epochs": epochs, "check_start": same}
    inputs = {"policy": start.fingerprint, "rows": plan.key, "reference": digest(text)}
    return store.run("train", work, version=VERSION, settings=settings, inputs=inputs)


def fit(
    train: Train,
    start: Policy,
    plan: Plan,
    reference: list[list[float]],
    progress: Path,
    output: Path,
    *,
    same: bool,
    epochs: int,
) -> dict[str, Any]:
    """Trains, and writes `policy/` and `steps.jsonl` to `output`; checkpoints go to `progress`, and are resumed from."""
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint

    from drift.model.policy import free, load_model, load_tokenizer, save_policy
    from drift.records import write_jsonl
    from drift.train.modules import AtomicCheckpoints, PolicyModule

    kind, dtype = train.dtype()
    if start.is_adapter and train.adapter is None:
        raise UserError(f"{start.directory} is an adapter, so train=full can't go on from it. Use train=lora.")
    tokenizer = load_tokenizer(start)
    model = load_model(start, getattr(torch, dtype), trainable=True)
    if train.adapter is not None and not start.is_adapter:
        model = train.adapter.attach(model)
    steps = ordered_steps(plan, epochs)
    with Progress("training", total=len(steps), unit="steps") as bar:
        module = PolicyModule(
            model,
            train,
            num_steps=len(steps),
            pairs_per_batch=train.pairs_per_batch,
            check_start=same,
            on_step=lambda row: bar.advance(1),
        )
        loader = Steps(module, plan, steps, reference, tokenizer.pad_token_id or 0)
        saved = progress / "last.ckpt"
        keep = ModelCheckpoint(
            dirpath=progress,
            filename="last",
            every_n_train_steps=train.checkpoint_every_steps,
            enable_version_counter=False,
        )
        trainer = make_trainer(kind, callbacks=[keep], max_epochs=1, plugins=[AtomicCheckpoints()])
        trainer.fit(module, loader, ckpt_path=saved if saved.is_file() else None, weights_only=True)
    assert len(module.history) == len(steps), "training ended early"
    save_policy(model, tokenizer, start, output / "policy")
    write_jsonl(output / "steps.jsonl", module.history)
    del trainer, module, model, loader
    free()
    return {"pairs": len(plan.pairs), "steps": len(steps)}


def recheck(train: Train, reference: Policy, plan: Plan, values: list[list[float]]) -> None:
    """Where the reference is not the start, the step-0 loss is not ln 2: the first rows are scored once more instead."""
    first = plan.steps[0][0]
    again = score_pairs(train, reference, [[plan.pairs[i] for i in first]], "reference check")[0]
    worst = max(abs(a - b) for i, pair in zip(first, again, strict=True) for a, b in zip(values[i], pair, strict=True))
    if worst > 1e-4:
        raise RuntimeError(f"Reference check failed: log-probs of the first rows are off by {worst:.2e} nats. Nothing was trained.")


class Steps:
    """The loader of `PolicyModule`: one optimiser step an item, from the first one that the module has not done yet."""

    def __init__(self, module: Any, plan: Plan, steps: list[int], reference: list[list[float]], pad_id: int) -> None:
        self.module, self.plan, self.steps, self.reference, self.pad_id = module, plan, steps, reference, pad_id

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        import torch

        for index in self.steps[len(self.module.history) :]:
            batches = []
            for batch in self.plan.steps[index]:
                tensors = collate_pairs([self.plan.pairs[i] for i in batch], self.pad_id)
                sides = [self.reference[i][side] for side in (0, 1) for i in batch]
                batches.append(tensors | {"reference": torch.tensor(sides)})
            yield batches

    def state_dict(
        self,
    ) -> dict[str, Any]:  # the module's history says where to go on; these two say to Lightning that we know
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def ordered_steps(plan: Plan, epochs: int) -> list[int]:
    """Step indices of all epochs: the plan's order first, then the same steps shuffled anew."""
    names = [str(step) for step in plan.steps]
    later = [order(epoch, "epoch", 0, names) for epoch in range(1, epochs)]
    return [*range(len(names)), *(i for epoch in later for i in epoch)]


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
