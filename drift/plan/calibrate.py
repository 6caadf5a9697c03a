"""`drift calibrate`: the rates of this machine, measured in about two minutes on four layers of Qwen2.5-0.5B's sizes with random
weights, by the program's own forward, backward and decoding."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch

from drift.console import say
from drift.model import precision
from drift.plan import work
from drift.plan.activations import Setup
from drift.plan.device import device_at_hand
from drift.plan.rates import keep, kept_file
from drift.plan.shape import Shape, shape_of
from drift.plan.work import Rates, Workload
from drift.sampler.cpu import skinny
from drift.sampler.decode import SampleRequest, sample
from drift.score import shared
from drift.score.sequence import TokenSequence
from drift.train.lora import Lora

SIZES = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 4, "num_attention_heads": 14, "num_key_value_heads": 2,
    "vocab_size": 32000, "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
LEAST_CALLS, LEAST_PAIRS, LEAST_SECONDS, MOST_CALLS = 3, 9, 3.0, 12
# Examples of a batch, tokens of their prompt and of each of two replies; replies drawn at once, tokens of their prompts, new tokens
EXAMPLES, PROMPT, REPLY, DRAWN, BEGUN, NEW = 6, 96, 48, 32, 16, 32
RANK = 16
WORK = Workload(
    examples=EXAMPLES, replies=2, prompt_tokens=PROMPT, reply_tokens=REPLY, samples=DRAWN, sample_prompt_tokens=BEGUN,
    sample_tokens=NEW, steps=1, batches=1, epochs=1, hindsight=False, mismatched=False,
)  # fmt: skip


def calibrate() -> Rates:
    """Measures, keeps and shows the rates at the precision that `auto` is on this machine."""
    device, kind = device_at_hand(), precision.resolve("auto")
    say(f"Measuring {device.name} in {kind}, {device.threads} threads: about two minutes.")
    rates = measure(device.kind, kind, SIZES)
    keep(kind, rates, device.place, kept_file())
    for name, value in (("forward", rates.forward), ("decoding", rates.decode), ("LoRA", rates.lora), ("full", rates.full)):
        say(f"  {name}: {value / 1e9:,.0f} GFLOP/s")
    say(f"  with an adapter: forward {rates.adapted / 1e9:,.0f} GFLOP/s, decoding {rates.decode_adapted / 1e9:,.0f}")
    say(f"  optimiser: {rates.update / 1e6:,.0f} million weights/s")
    say(f"  what a batch takes whatever its tokens: {rates.batch / 1e6:,.0f} million weights/s; LoRA {rates.lora_batch / 1e6:,.0f}")
    say(f"  files: {rates.files / 2**20:,.0f} MiB/s")
    say(f"Kept in {kept_file()}; plans use it on this machine.")
    return rates


def measure(device: str, kind: str, sizes: dict[str, Any]) -> Rates:
    """The rates of a device ("cpu", "cuda") at a precision, with a model of these sizes."""
    from transformers import Qwen2Config

    config, compute = Qwen2Config(**sizes), getattr(torch, kind)
    shape = shape_of(config)
    assert shape is not None
    setup = Setup(
        adapted=shape.layers, rank=RANK, weight_bytes=compute.itemsize, compute_bytes=compute.itemsize,
        file_bytes=compute.itemsize, quantised=False, checkpointing=False, optimizer="adamw", shared=True, frozen=False,
        device=device, devices=1, divided=False, offloaded=False,
    )  # fmt: skip
    plain, other = (random_model(config, compute, device) for _ in range(2))
    adapted = Lora(rank=RANK, scale=2.0, top_share=1.0, quantization="none").attach(other)
    rates = {"files": file_rate(random_model(config, torch.bfloat16, "cpu"))}
    for model, drawn, computed in ((plain, "decode", "forward"), (adapted, "decode_adapted", "adapted")):
        rates[drawn] = decoding_flops(shape) / decoding_seconds(model, device)  # first: `forward` sets the attention of training
        batch = example_batch(shape.vocabulary, device, EXAMPLES)
        rates[computed] = work.reference_flops(shape, setup, WORK) / timed(partial(forward, model, batch), device)
    rates["lora"], rates["lora_batch"] = by_two_batches(
        shape, setup, shape.linear * shape.layers, lambda batch: backward(adapted, batch, nullcontext())
    )
    whole, every = random_model(config, torch.float32, device), replace(setup, adapted=0, weight_bytes=4)
    mixed = torch.autocast(device, torch.bfloat16, cache_enabled=False) if kind == "bfloat16" else nullcontext()
    rates["full"], rates["batch"] = by_two_batches(shape, every, shape.total, lambda batch: backward(whole, batch, mixed))
    rates["update"] = shape.total / update_seconds(whole, device)
    return Rates(**rates, source="measured")


def by_two_batches(shape: Shape, setup: Setup, numbers: int, train_on: Callable[[dict[str, Any]], None]) -> tuple[float, float]:
    """(operations a second, `numbers` a second): what a batch takes grows with its tokens, and has a part that does not; two
    batches of different sizes tell them apart. They take turns, and each pair gives a difference: a machine is slow for a while."""
    batches = [example_batch(shape.vocabulary, setup.device, examples) for examples in (EXAMPLES, 1)]
    pairs = rounds_of([partial(train_on, batch) for batch in batches], setup.device, least=LEAST_PAIRS)
    flops = work.training_flops(shape, setup, WORK) / EXAMPLES
    rate = flops * (EXAMPLES - 1) / max(median(large - small for large, small in pairs), 1e-9)
    return rate, numbers / max(median(small for _, small in pairs) - flops / rate, 1e-9)


@torch.no_grad()
def forward(model: Any, batch: dict[str, Any]) -> None:
    shared.reply_logprobs(model, batch)


def random_model(config: Any, dtype: Any, device: str) -> Any:
    from transformers import Qwen2ForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = Qwen2ForCausalLM(deepcopy(config))  # `forward` changes it
        return model.to(device=device, dtype=dtype).eval()


def example_batch(vocabulary: int, device: str, examples: int) -> dict[str, Any]:
    """A batch of prompts of random tokens with two replies each."""
    ids = torch.randint(vocabulary, (examples, PROMPT + 2 * REPLY), generator=torch.Generator().manual_seed(0)).tolist()
    sequences = [
        TokenSequence(prompt=row[:PROMPT], reply=row[low : low + REPLY]) for row in ids for low in (PROMPT, PROMPT + REPLY)
    ]
    batch = shared.collate(sequences, 0)
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}


def backward(model: Any, batch: dict[str, Any], context: Any) -> None:
    """One forward and backward pass; the gradients are dropped."""
    with context:
        shared.reply_logprobs(model, batch)[0].sum().backward()
    model.zero_grad()


def decoding_flops(shape: Shape) -> float:
    """Of all new tokens but the first, which comes with the prompts."""
    return work.sampling_flops(shape, WORK)[1] * (NEW - 1) / NEW


def decoding_seconds(model: Any, device: str) -> float:
    """Seconds of the same."""
    skinny.speed_up(model)
    ids = torch.randint(model.config.vocab_size, (DRAWN, BEGUN), generator=torch.Generator().manual_seed(1)).tolist()
    requests = [SampleRequest(prompt=row, uniforms=torch.full((NEW,), 0.5)) for row in ids]

    def draw(new: int) -> None:
        how = {"temperature": 0.0, "top_p": 1.0, "stop_ids": {-1}, "pad_id": 0}
        sample(model, requests, max_new_tokens=new, **how)

    return max(timed(lambda: draw(NEW), device) - timed(lambda: draw(1), device), 1e-9)


def update_seconds(model: Any, device: str) -> float:
    """Seconds of a step of RMSprop on all weights, with the clipping before it."""
    parameters = list(model.parameters())
    optimizer = torch.optim.RMSprop(parameters, lr=0.0)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return timed(step, device)


def file_rate(model: Any) -> float:
    """Bytes a second of a model that is written in bfloat16, as models are published, and read in float32."""
    folder = tempfile.mkdtemp()
    try:
        numbers = sum(parameter.numel() for parameter in model.parameters())

        def there_and_back() -> None:
            model.save_pretrained(folder)
            type(model).from_pretrained(folder, dtype=torch.float32)

        return (torch.bfloat16.itemsize + torch.float32.itemsize) * numbers / timed(there_and_back, "cpu")
    finally:
        shutil.rmtree(folder)


def timed(what: Callable[[], Any], device: str) -> float:
    """The median of the seconds of a few calls: a stage has slow calls, too."""
    return median(seconds for (seconds,) in rounds_of([what], device, least=LEAST_CALLS))


def rounds_of(calls: Sequence[Callable[[], Any]], device: str, *, least: int) -> list[list[float]]:
    """Seconds of each call in each of some rounds, after one that is not counted. On a CPU those of its threads' own work: other
    programs on the machine count only as far as they slow it down."""
    clock = time.perf_counter if device == "cuda" else lambda: time.process_time() / torch.get_num_threads()

    def seconds_of(call: Callable[[], Any]) -> float:
        begun = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - begun

    for call in calls:
        seconds_of(call)
    rounds: list[list[float]] = []
    while len(rounds) < least or (sum(map(sum, rounds)) < LEAST_SECONDS and len(rounds) < MOST_CALLS):
        rounds.append([seconds_of(call) for call in calls])
    return rounds
