"""`train.tokens_per_batch=auto` for LoRA on every layer: the planner's number, what the trials find, and how far the plan is from
the measured peaks."""

from collections.abc import Callable
from dataclasses import replace

import torch
from models import DEVICE, random_model, synchronized_clock

GIB = 2**30


def measure(size: str, say: Callable) -> None:
    """`left_out_gib`: what the plan counts beside what torch has allocated (the CUDA context)."""
    from hydra.utils import instantiate
    from side_by_side import composed

    from drift.plan import memory
    from drift.plan.device import device_at_hand
    from drift.plan.forecast import SHARE, most_tokens, setup_of
    from drift.plan.memory import Batch
    from drift.plan.shape import shape_of
    from drift.train.batch_size import Trials, largest_that_fits

    precision = "bfloat16" if DEVICE == "cuda" else "float32"
    longest = 2048 if DEVICE == "cuda" else 128
    train = instantiate(
        composed(
            "train=lora", "train.adapter.top_share=1.0", f"train.max_tokens={longest}", f"train.precision={precision}",
            "train.tokens_per_batch=auto",
        ).train
    )  # fmt: skip
    device = device_at_hand()
    model = train.adapter.attach(random_model(size, getattr(torch, precision)))
    shape = shape_of(model.config)
    assert shape is not None
    setup = setup_of(train, shape, device.kind, None, 1)
    guess = most_tokens(train, shape, device, 1) if DEVICE == "cuda" else 1024
    trials = Trials(train, model, SHARE[device.kind] * device.free)
    begun = synchronized_clock()
    found = largest_that_fits(guess, trials) if DEVICE == "cuda" else guess
    say(side="auto", guess=guess, found=found, seconds=synchronized_clock() - begun, limit_gib=trials.limit / GIB)
    for tokens, checkpointing in ((found // 2, False), (found, False), (2 * found, False), (found, True)):  # it stays on
        trials = Trials(replace(train, gradient_checkpointing=checkpointing), model, trials.limit)
        begun, peak = synchronized_clock(), trials(tokens)
        seconds = synchronized_clock() - begun
        batch = Batch(tokens=tokens, predicted=tokens, longest=longest, several=True)
        parts = memory.training(shape, replace(setup, checkpointing=checkpointing), batch)
        planned, left_out = memory.total(parts) - parts["libraries"], parts["libraries"]
        rest = {"peak_gib": peak / GIB, "planned_gib": planned / GIB, "left_out_gib": left_out / GIB, "seconds": seconds}
        say(side=f"{tokens} tokens{', checkpointing' * checkpointing}", **rest)
