"""DPO training: this project in several ways and TRL's `DPOTrainer`, in one process, on the same random model, pairs and optimiser.

A round is one epoch of each: the reference pass and the optimiser steps. What Lightning's and TRL's trainers do before and after is
not counted.

`torch.compile` is only measured here, and is no setting of the program: a compiled forward pass with gradients may round in other
places than one without, and then the reference pass and the first step differ (`first_margin`, which must be 0).
"""

import gc
import statistics
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from models import (
    DEVICE,
    config_of,
    peak_gib,
    peak_tflops,
    quantised,
    random_model,
    random_pairs,
    reset_peak,
    synchronized_clock,
    tokenizer,
)

LEARNING_RATE, BETA, RANK = 1e-6, 0.1, 16
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROUNDS = 2


@dataclass(frozen=True)
class Ours:
    """`tokens` of a batch; gradient checkpointing; `compiled`: feed-forward layers and norms (attention is compiled always)."""

    tokens: int
    checkpointing: bool
    compiled: bool = False

    def __str__(self) -> str:
        return f"ours, {self.tokens} tokens{', checkpointing' * self.checkpointing}{', compiled' * self.compiled}"


@dataclass(frozen=True)
class Trl:
    """`pairs` of a batch; gradient checkpointing."""

    pairs: int
    checkpointing: bool

    def __str__(self) -> str:
        return f"TRL, batch {self.pairs}{', checkpointing' * self.checkpointing}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """`train`: the option of the group. `sides`: the first one is compared with the others."""

    size: str
    train: str
    pairs: int
    examples_per_step: int
    sides: tuple[Ours | Trl, ...]

    @property
    def adapter(self) -> bool:
        return self.train != "full"


SMALL = {"size": "tiny", "pairs": 8, "examples_per_step": 4}
CASES = {
    ("training", "0.5b"): Case(size="0.5b", train="full", pairs=64, examples_per_step=32,
                               sides=(Ours(16384, True), Trl(4, True), Trl(16, False))),
    ("training", "7b"): Case(size="7b", train="lora", pairs=32, examples_per_step=16,
                             sides=(Ours(4096, False), Trl(4, True), Trl(4, False))),
    ("qlora", "14b"): Case(size="14b", train="qlora", pairs=32, examples_per_step=16, sides=(Ours(4096, True),)),
    ("checkpointing", "7b"): Case(size="7b", train="lora", pairs=32, examples_per_step=16,
                                  sides=(Ours(4096, False), Ours(4096, True), Ours(16384, True))),
    ("compile", "0.5b"): Case(size="0.5b", train="full", pairs=64, examples_per_step=32,
                              sides=(Ours(8192, False, True), Ours(8192, False))),
    ("training", "tiny"): Case(**SMALL, train="lora", sides=(Ours(8192, False), Trl(4, True))),
    ("qlora", "tiny"): Case(**SMALL, train="qlora", sides=(Ours(4096, True),)),
    ("checkpointing", "tiny"): Case(**SMALL, train="lora", sides=(Ours(4096, False), Ours(4096, True))),
    ("compile", "tiny"): Case(**SMALL, train="full", sides=(Ours(4096, False, True), Ours(4096, False))),
}  # fmt: skip


def measure(case: Case, say: Callable) -> None:
    """All sides take turns; the first turn is a warm-up, ROUNDS others count."""
    data = random_pairs(case.pairs, shrink=10 if case.size == "tiny" else 1)
    flop, tokens = needed(case, data)
    measured: dict[Any, list[dict[str, float]]] = {}

    def once(side: Ours | Trl, kind: str) -> None:
        begun = synchronized_clock()
        try:
            epoch = our_epoch if isinstance(side, Ours) else trl_epoch
            seconds, facts = epoch(case, data, side)
        except Exception as error:  # out of memory, or a fault of this side: the other sides are measured all the same
            traceback.print_exc()
            say(side=str(side), kind=kind, failed=f"{type(error).__name__}: {error}"[:300])
            return
        finally:
            gc.collect()
            peak = peak_gib()
            reset_peak()
        around = synchronized_clock() - begun - seconds
        rate = {"pairs_per_second": len(data) / seconds, "tokens_per_second": tokens / seconds, "peak_gib": peak}
        if peak_tflops():
            rate["mfu"] = flop / seconds / 1e12 / peak_tflops()
        if kind == "round":
            measured.setdefault(side, []).append(rate)
        say(side=str(side), kind=kind, seconds=seconds, seconds_around=around, **rate, **facts)

    for kind in ("warm-up", *["round"] * (1 if case.size == "tiny" else ROUNDS)):  # the first turn compiles for every length
        for side in case.sides:
            once(side, kind)
    mine, *others = case.sides
    for other in others if mine in measured else ():
        both = list(zip(measured[mine], measured.get(other, []), strict=False))
        if both:
            speed = [one["pairs_per_second"] / another["pairs_per_second"] for one, another in both]
            memory = both[0][0]["peak_gib"] / both[0][1]["peak_gib"]
            say(ratio=f"{mine} / {other}", speed=statistics.median(speed), least=min(speed), most=max(speed), memory=memory)
    if mine not in measured:
        raise RuntimeError(f"{mine} was not measured")


def needed(case: Case, data: list[dict[str, str]]) -> tuple[float, int]:
    """(arithmetic that an epoch needs, as MFU counts it; tokens of all prompts and replies, a prompt once)."""
    from arithmetic import needed_flop

    config = config_of(case.size).to_dict()
    rows = our_rows(data)
    lengths = [(len(pair.prompt), *(len(row.reply) for row in pair.sequences)) for pair in rows]
    return needed_flop(config, lengths, 1.0 if case.adapter else None), sum(map(sum, lengths))


def our_rows(data: list[dict[str, str]]) -> list[Any]:
    from side_by_side import as_examples

    from drift.score.plan import tokenize

    return tokenize(tokenizer(), as_examples(data))


def loaded(case: Case) -> Any:
    """The model that all sides train: frozen bfloat16 or four bits below an adapter, float32 under autocast otherwise."""
    model = random_model(case.size, torch.bfloat16 if case.adapter and DEVICE == "cuda" else torch.float32)
    return quantised(model) if case.train == "qlora" else model


def compile_parts(model: Any) -> None:
    """Compiles feed-forward layers and norms where they are. On a CPU, for a test, torch traces them and runs them as they are."""
    torch._dynamo.config.recompile_limit = 64
    backend = "inductor" if DEVICE == "cuda" else "aot_eager"
    for part in model.modules():
        if type(part).__name__.endswith(("MLP", "RMSNorm")):
            part.compile(backend=backend, dynamic=True)


def planned_gib(train: Any, model: Any, batches: list[Any]) -> float:
    """The planner's peak of training on these batches, without the CUDA context, which torch does not count."""
    from drift.plan import memory
    from drift.plan.forecast import setup_of
    from drift.plan.shape import shape_of
    from drift.score import shared

    shape = shape_of(model.config)
    assert shape is not None
    largest = max(batches, key=shared.num_tokens)
    longest = max(len(one.prompt) + len(one.reply) for one in largest)
    predicted = sum(len(one.reply) for one in largest)
    batch = memory.Batch(tokens=shared.num_tokens(largest), predicted=predicted, longest=longest, several=len(batches) > 1)
    parts = memory.training(shape, setup_of(train, shape, DEVICE, None, 1), batch)
    return (memory.total(parts) - parts["libraries"]) / 2**30


def our_epoch(case: Case, data: list[dict[str, str]], side: Ours) -> tuple[float, dict[str, float]]:
    """(seconds of the reference pass and the steps; the planner's peak, and the margin of the first step)."""
    from hydra.utils import instantiate
    from lightning.pytorch.callbacks import Callback
    from side_by_side import composed
    from torch.utils.data import DataLoader

    from drift.objective.dpo import Dpo
    from drift.score import shared
    from drift.score.module import ReferenceModule
    from drift.score.plan import make_plan
    from drift.score.reference import Reference
    from drift.score.trainer import make_trainer
    from drift.train.fit import Steps
    from drift.train.modules import PolicyModule

    overrides = [
        f"train={case.train}",
        f"train.learning_rate={LEARNING_RATE}",
        "train.warmup_share=0",
        "train.optimizer=adamw",
        "train.signal_every=0",
        f"train.gradient_checkpointing={side.checkpointing}",
        f"train.tokens_per_batch={side.tokens}",
        f"train.precision={'bfloat16' if DEVICE == 'cuda' else 'float32'}",
    ]
    train = instantiate(composed(*overrides, *(["train.adapter.top_share=1.0"] if case.adapter else [])).train)
    planned = make_plan(
        our_rows(data),
        layout="shared",
        examples_per_step=case.examples_per_step,
        tokens_per_batch=side.tokens,
        example_order="shuffled",
        seed=0,
        longest_mismatched=None,
    )
    model = loaded(case)
    model = train.adapter.attach(model) if case.adapter else model
    if side.compiled:
        compile_parts(model)
    reset_peak()  # four-bit weights were made of full ones
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    clock = Clock()

    class Timed(Callback):
        def on_predict_start(self, *_: Any) -> None:
            clock.start()

        on_train_start = on_predict_start

        def on_predict_end(self, *_: Any) -> None:
            clock.stop()

        on_train_end = on_predict_end

    kind = train.compute.lightning
    batches: Any = [shared.collate(planned.sequences(batch), 0) for batch in planned.batches]
    reference = ReferenceModule(model, shared, lambda count: None)
    sums = make_trainer(kind, enable_checkpointing=False, callbacks=[Timed()]).predict(
        reference, DataLoader(batches, batch_size=None)
    )
    values = Reference.of(planned, [found.tolist() for found in sums or []])  # type: ignore[union-attr]
    for parameter in trained:
        parameter.requires_grad_(True)
    objectives = {"dpo": Dpo(weight=1.0, beta=BETA)}
    module = PolicyModule(
        model, train, objectives, shared, num_steps=len(planned.steps), check_start=False, on_step=lambda history: None
    )
    steps = Steps(module, planned, list(range(len(planned.steps))), values, None, 0)
    make_trainer(kind, enable_checkpointing=False, max_epochs=1, callbacks=[Timed()]).fit(module, steps)
    margin = module.history[0]["margin"]
    assert len(module.history) == len(planned.steps) and (side.compiled or abs(margin) < 1e-3)  # exactly 0: tests/test_gpu.py
    batches = [planned.sequences(batch) for batch in planned.batches]
    return clock.seconds, {"planned_gib": planned_gib(train, model, batches), "first_margin": margin}


def trl_epoch(case: Case, data: list[dict[str, str]], side: Trl) -> tuple[float, dict[str, float]]:
    """(seconds of the steps, which ask the reference; nothing more)."""
    from copy import deepcopy

    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    clock = Clock()

    class Timed(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            clock.stop()

    model = loaded(case)
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=LINEAR, task_type="CAUSAL_LM")
    rows = [
        {"prompt": [{"role": "user", "content": row["prompt"]}]}
        | {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        for row in data
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            output_dir=folder,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=DEVICE == "cpu",
            logging_strategy="no",
            bf16=DEVICE == "cuda",
            optim="adamw_torch",
            gradient_checkpointing=side.checkpointing,
            learning_rate=LEARNING_RATE,
            beta=BETA,
            max_length=None,
            num_train_epochs=1,
            per_device_train_batch_size=side.pairs,
            gradient_accumulation_steps=max(1, case.examples_per_step // side.pairs),
        )
        trainer = DPOTrainer(
            model=model,
            ref_model=None if case.adapter else deepcopy(model),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer(),
            peft_config=lora if case.adapter else None,
            callbacks=[Timed()],
        )
        trainer.train()
    return clock.seconds, {}


class Clock:
    """Adds up the seconds between `start` and `stop`, the device's work included."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def start(self) -> None:
        self.begun = synchronized_clock()

    def stop(self) -> None:
        self.seconds += synchronized_clock() - self.begun
