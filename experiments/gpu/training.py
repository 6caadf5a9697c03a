"""DPO training: this project against TRL's `DPOTrainer`, in one process, on the same random model, pairs and optimiser.

A round is one epoch of each: the reference pass and the optimiser steps. What Lightning's and TRL's trainers do before and after is
not counted.
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
    SHAPES,
    peak_gib,
    peak_tflops,
    random_model,
    random_pairs,
    reset_peak,
    synchronized_clock,
    tokenizer,
)

LEARNING_RATE, BETA, RANK = 1e-6, 0.1, 16
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """`ours`: tokens of a batch, and gradient checkpointing; `peers`: pairs of a batch, and checkpointing (TRL's default, and its
    fastest of those that were tried on an H100)."""

    size: str
    adapter: bool
    pairs: int
    examples_per_step: int
    ours: tuple[int, bool]
    peers: tuple[tuple[int, bool], ...]


CASES = {
    "tiny": Case(size="tiny", adapter=True, pairs=8, examples_per_step=4, ours=(8192, False), peers=((4, True),)),
    "0.5b": Case(
        size="0.5b", adapter=False, pairs=64, examples_per_step=32, ours=(16384, True),
        peers=((4, True), (16, False)),
    ),
    "7b": Case(
        size="7b", adapter=True, pairs=32, examples_per_step=16, ours=(4096, False),
        peers=((4, True), (4, False)),
    ),
}  # fmt: skip


def measure(case: Case, say: Callable) -> None:
    """All sides take turns; the first turn is a warm-up, ROUNDS others count."""
    data = random_pairs(case.pairs, shrink=10 if case.size == "tiny" else 1)
    batch, checkpointing = case.ours
    sides: dict[str, Any] = {f"ours, {batch} tokens{', checkpointing' * checkpointing}": (our_epoch, batch, checkpointing)}
    for batch, checkpointing in case.peers:
        sides[f"TRL, batch {batch}{', checkpointing' * checkpointing}"] = (trl_epoch, batch, checkpointing)
    flop, tokens = needed(case, data)
    measured: dict[str, list[dict[str, float]]] = {}

    def once(side: str, kind: str) -> None:
        epoch, count, checkpointing = sides[side]
        try:
            begun = synchronized_clock()
            seconds, peak = epoch(case, data, count, checkpointing)
            around = synchronized_clock() - begun - seconds
        except Exception as error:  # out of memory, or a fault of this side: the other sides are measured all the same
            traceback.print_exc()
            say(side=side, kind=kind, failed=f"{type(error).__name__}: {error}"[:300])
            return
        finally:
            gc.collect()
            reset_peak()
        rate = {"pairs_per_second": len(data) / seconds, "tokens_per_second": tokens / seconds, "peak_gib": peak}
        if peak_tflops():
            rate["mfu"] = flop / seconds / 1e12 / peak_tflops()
        if kind == "round":
            measured.setdefault(side, []).append(rate)
        say(side=side, kind=kind, seconds=seconds, seconds_around=around, **rate)

    for kind in ("warm-up", *["round"] * ROUNDS):  # the first turn compiles for every length
        for side in sides:
            once(side, kind)
    mine, *peers = [side for side in sides if len(measured.get(side, [])) == ROUNDS]
    for peer in peers:
        both = list(zip(measured[mine], measured[peer], strict=True))
        speed = [one["pairs_per_second"] / other["pairs_per_second"] for one, other in both]
        memory = both[0][0]["peak_gib"] / both[0][1]["peak_gib"]
        say(ratio=f"{mine} / {peer}", speed=statistics.median(speed), least=min(speed), most=max(speed), memory=memory)


def needed(case: Case, data: list[dict[str, str]]) -> tuple[float, int]:
    """(arithmetic that an epoch needs, as MFU counts it; tokens of all prompts and replies, a prompt once)."""
    from arithmetic import needed_flop

    hidden, layers, heads, kv_heads, intermediate, vocabulary, _ = SHAPES[case.size]
    config = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
    }
    rows = our_rows(data)
    lengths = [(len(pair.prompt), *(len(row.reply) for row in pair.sequences)) for pair in rows]
    return needed_flop(config, lengths, 1.0 if case.adapter else None), sum(map(sum, lengths))


def our_rows(data: list[dict[str, str]]) -> list[Any]:
    from side_by_side import as_examples

    from drift.score.plan import tokenize

    return tokenize(tokenizer(), as_examples(data))


def loaded(case: Case) -> Any:
    """The model that both sides train: frozen bfloat16 below an adapter, float32 under autocast otherwise."""
    return random_model(case.size, torch.bfloat16 if case.adapter and DEVICE == "cuda" else torch.float32)


def our_epoch(case: Case, data: list[dict[str, str]], tokens: int, checkpointing: bool) -> tuple[float, float]:
    """(seconds of the reference pass and the steps, peak GiB)."""
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
        f"train={'lora' if case.adapter else 'full'}",
        f"train.learning_rate={LEARNING_RATE}",
        "train.warmup_share=0",
        "train.optimizer=adamw",
        "train.signal_every=0",
        f"train.gradient_checkpointing={checkpointing}",
        f"train.tokens_per_batch={tokens}",
        f"train.precision={'bfloat16' if DEVICE == 'cuda' else 'float32'}",
    ]
    train = instantiate(composed(*overrides, *(["train.adapter.top_share=1.0"] if case.adapter else [])).train)
    planned = make_plan(
        our_rows(data),
        layout="shared",
        examples_per_step=case.examples_per_step,
        tokens_per_batch=tokens,
        example_order="shuffled",
        seed=0,
        longest_mismatched=None,
    )
    model = loaded(case)
    model = train.adapter.attach(model) if case.adapter else model
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
    assert len(module.history) == len(planned.steps) and abs(module.history[0]["margin"]) < 1e-3  # exactly 0: tests/test_gpu.py
    return clock.seconds, peak_gib()


def trl_epoch(case: Case, data: list[dict[str, str]], batch: int, checkpointing: bool) -> tuple[float, float]:
    """(seconds of the steps, which ask the reference, peak GiB)."""
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
            gradient_checkpointing=checkpointing,
            learning_rate=LEARNING_RATE,
            beta=BETA,
            max_length=None,
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=max(1, case.examples_per_step // batch),
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
    return clock.seconds, peak_gib()


class Clock:
    """Adds up the seconds between `start` and `stop`, the device's work included."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def start(self) -> None:
        self.begun = synchronized_clock()

    def stop(self) -> None:
        self.seconds += synchronized_clock() - self.begun
