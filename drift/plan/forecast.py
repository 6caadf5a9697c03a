"""The forecast of a run, from its settings and its model's `config.json`. Lengths are not known before the log is read: prompts
and replies are taken to be as long as the settings allow, so hours, disk and dollars are upper limits."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from drift.engine.questions import LIMITS
from drift.engine.ranks import world
from drift.evaluation.stage import sampler_of
from drift.model import adapter, precision
from drift.model.files import read_object
from drift.plan import disk, memory, work
from drift.plan.activations import Setup
from drift.plan.device import Device
from drift.plan.memory import Batch, Parts
from drift.plan.shape import Shape
from drift.plan.work import Rates, Workload
from drift.train.disk import most_policies, replies_of, samples_of, trainings

BYTES = {"float32": 4, "bfloat16": 2}
UNKNOWN_EXAMPLES = 1000  # a log that has not been read
LEAST_TOKENS = 1024  # of a batch: smaller ones are not advised
MOST_TOKENS = {"cpu": 8192, "cuda": 16384}  # that train.tokens_per_batch=auto chooses: larger batches are hardly faster
SHARE = {"cpu": 0.5, "cuda": 0.85}  # of the free memory, that it may use: other programs on a computer need some, too
QUESTION = 500  # tokens of a judge's question beside the texts that it judges, about


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """`tokens_per_batch`: of training. `stages`: stage -> its peak memory by part. `seconds`: stage -> of the whole run. `disk`:
    artefact -> bytes. `work`: of one iteration. `counted`: false if the number of examples is not known, so that hours and disk
    are for `UNKNOWN_EXAMPLES`."""

    shape: Shape
    setup: Setup
    device: Device
    rates: Rates
    work: Workload
    iterations: int
    tokens_per_batch: int
    stages: dict[str, Parts]
    seconds: dict[str, float]
    disk: dict[str, int]
    dollars: float | None
    counted: bool

    @property
    def peak(self) -> tuple[str, int]:
        """(the stage that needs the most memory, its bytes); several processes on a CPU share its memory."""
        sharing = self.setup.devices if self.device.kind == "cpu" else 1
        return max(((name, sharing * memory.total(parts)) for name, parts in self.stages.items()), key=lambda stage: stage[1])


def forecast(run: Any, shape: Shape, device: Device, rates: Rates) -> Forecast:
    devices = max(run.devices, world())  # ranks on several machines are not in the settings
    train, iterations = sized(run.train, shape, device, devices), trainings(run)
    loaded, counted = workload(replace(run, train=train))
    setup = setup_of(train, shape, device.kind, loaded, devices)
    sampler = run.sampler
    together = max(1, min(sampler.group_size, sampler.tokens_per_batch // (loaded.sample_prompt_tokens + loaded.sample_tokens)))
    drawn = {"replies": together, "prompt_tokens": loaded.sample_prompt_tokens, "new_tokens": loaded.sample_tokens}
    stages = {"sampling": memory.sampling(shape, setup, bytes_each=BYTES[precision.resolve(sampler.precision)], **drawn)}
    if iterations:
        batch = largest_batch(train, setup, loaded)
        stages["reference"] = memory.reference(shape, setup, batch)
        stages["training"] = memory.training(shape, setup, batch)
    begin = replace(loaded, samples=loaded.samples + evaluated(run))  # the start model is evaluated too
    first = work.seconds(shape, setup, begin, rates, adapted=False)
    later = work.seconds(shape, setup, loaded, rates, adapted=setup.adapted > 0)
    times = {name: first[name] + max(0, iterations - 1) * later[name] for name in stages}
    return Forecast(
        shape=shape, setup=setup, device=device, rates=rates, work=loaded, iterations=iterations,
        tokens_per_batch=train.tokens_per_batch, stages=stages, seconds=times,
        disk=disk.run_bytes(shape, setup, loaded, iterations, most_policies(run)), dollars=judge_dollars(run, loaded),
        counted=counted,
    )  # fmt: skip


def continued(train: Any, directory: Path, shape: Shape) -> Any:
    """The training of a start model in this directory: one with an adapter keeps it, with its rank, its lowest layer and the
    quantisation of its base, whatever the settings of a new one."""
    if train.adapter is None or not (directory / adapter.CONFIG).is_file():
        return train
    found = read_object(directory / adapter.CONFIG)
    layers = found.get("layers_to_transform")  # in another program's adapter it may be one number, or none for all layers
    lowest = min(layers) if isinstance(layers, list) else layers or 0
    kept = {"rank": found["r"], "top_share": (shape.layers - lowest) / shape.layers}
    quantization = adapter.base_of(directory).quantization or train.adapter.quantization
    return replace(train, adapter=replace(train.adapter, quantization=quantization, **kept))


def sized(train: Any, shape: Shape, device: Device, devices: int) -> Any:
    """The settings with the figure of `most_tokens` in place of `train.tokens_per_batch=auto`."""
    if train.tokens_per_batch != "auto":
        return train
    return replace(train, tokens_per_batch=most_tokens(train, shape, device, devices))


def most_tokens(train: Any, shape: Shape, device: Device, devices: int) -> int:
    """The most tokens of a batch, a multiple of LEAST_TOKENS up to MOST_TOKENS, for which training and the reference pass need no
    more than SHARE of the memory that is free; or LEAST_TOKENS, if that is too much. Every token is taken to predict another one,
    and no layer's outputs to be kept: that takes the most."""
    setup = setup_of(train, shape, device.kind, None, devices)
    most = SHARE[device.kind] * device.free / (devices if device.kind == "cpu" else 1)  # processes on a CPU share its memory

    def fits(tokens: int) -> bool:
        batch = Batch(tokens=tokens, predicted=tokens, longest=train.max_tokens, several=True)
        peaks = (memory.total(stage(shape, setup, batch)) for stage in (memory.training, memory.reference))
        return max(peaks) <= most

    sizes = range(LEAST_TOKENS, MOST_TOKENS[device.kind] + 1, LEAST_TOKENS)
    return max(filter(fits, sizes), default=LEAST_TOKENS)


def setup_of(train: Any, shape: Shape, device: str, loaded: Workload | None, devices: int) -> Setup:
    """How training sees the model. Outputs of frozen layers are kept as `train/frozen.py` decides; without a workload they are
    not."""
    compute = precision.resolve(train.precision)
    lora = train.adapter
    adapted = len(lora.layers(shape.layers)) if lora else 0
    shared = train.layout == "shared"
    kept = loaded.kept_tokens(shared) * shape.hidden * BYTES[compute] if loaded else math.inf
    return Setup(
        adapted=adapted,
        rank=lora.rank if lora else 0,
        weight_bytes=BYTES[train.formats[1]],
        compute_bytes=BYTES[compute],
        file_bytes=shape.file_bytes,
        quantised=lora is not None and lora.quantization == "nf4",
        checkpointing=train.gradient_checkpointing,
        optimizer=train.optimizer,
        shared=shared,
        frozen=shared and 0 < adapted < shape.layers and kept <= train.frozen_cache_gib * 2**30,
        device=device,
        devices=devices,
        divided=devices > 1 and train.strategy == "fsdp",
        offloaded=train.cpu_offload,
    )


def workload(run: Any) -> tuple[Workload, bool]:
    """What one iteration does, and whether the number of its examples is known. Fresh replies: the method's, the log's of a
    simulation (once, or in every iteration), and those of the evaluations of its policy."""
    data = settings_of(run.data)
    known = run.examples_per_iteration or data.get("num_prompts")
    examples = known or UNKNOWN_EXAMPLES
    samples = examples * samples_of(run.method) + (data["num_prompts"] if run.data.uses_policy else 0) + evaluated(run)
    train, sampler, replies = run.train, run.sampler, replies_of(run.method)
    reply = min(sampler.max_new_tokens, train.max_tokens - 1)
    prompt = train.max_tokens - reply
    epochs = max(train.epochs, run.warmup_epochs)
    steps = epochs * -(-examples // train.examples_per_step)
    return Workload(
        examples=examples, replies=replies, prompt_tokens=prompt, reply_tokens=reply, samples=samples,
        sample_prompt_tokens=min(prompt, sampler.max_prompt_tokens), sample_tokens=sampler.max_new_tokens,
        steps=steps, batches=steps * batches_of(train, prompt, reply, replies), epochs=epochs,
        hindsight=run.method.hindsight, mismatched=any(one.mismatched for one in run.objective.values()),
    ), known is not None  # fmt: skip


def evaluated(run: Any) -> int:
    """Fresh replies of the evaluations of one policy; longer ones than the run's own count for several."""
    count = 0.0
    for evaluation in (one for one in run.evaluation.values() if one.samples):
        own = settings_of(evaluation)
        prompts = own.get("num_prompts") or len(evaluation.prompts()) or own.get("num_sampled_prompts", 0)
        longer = sampler_of(evaluation, run.sampler).max_new_tokens / run.sampler.max_new_tokens
        count += prompts * own.get("num_samples", 1) * max(1.0, longer)
    return math.ceil(count)


def batches_of(train: Any, prompt: int, reply: int, replies: int) -> int:
    """Batches of a step whose examples all have a prompt and so many replies of these lengths."""
    one = prompt + replies * (reply - 1) if train.layout == "shared" else replies * (prompt + reply)
    return -(-train.examples_per_step // max(1, train.tokens_per_batch // one))


def settings_of(part: Any) -> dict[str, Any]:
    return {item.name: getattr(part, item.name) for item in fields(part)}


def largest_batch(train: Any, setup: Setup, loaded: Workload) -> Batch:
    """The largest batch of a step: `train.tokens_per_batch`, or one example if that is larger, but no more than the step has."""
    one, together = loaded.tokens(setup.shared), min(loaded.examples, train.examples_per_step)
    tokens = min(max(train.tokens_per_batch, one), one * together)
    predicted = tokens * loaded.predicted // one
    longest = loaded.prompt_tokens + loaded.reply_tokens
    return Batch(tokens=tokens, predicted=predicted, longest=longest, several=one * together > tokens * setup.devices)


def judge_dollars(run: Any, loaded: Workload) -> float | None:
    """The most that judges with a price can cost: of the method's and the filter's, every question at its longest, or their cap if
    that is less; of the evaluations' and the miner's, their cap; None: no judge has a price."""
    items = loaded.examples * run.iterations
    drawn, chosen = samples_of(run.method), replies_of(run.method) - 1  # every two; each and the disliked one
    pairs = [(run.method.judge, drawn * (drawn - 1) // 2), (run.filters.judge, chosen)]
    costs = [_dollars(judge, loaded, items * 2 * number) for judge, number in pairs]
    read = [] if run.data.uses_policy or run.data.gives_records else [run.mine]
    ends = [end for part in (*run.evaluation.values(), *read) if (end := settings_of(part).get("endpoint")) is not None]
    costs += [end.max_dollars for end in ends if end.dollars_per_million_input or end.dollars_per_million_output]
    priced = [cost for cost in costs if cost is not None]
    return sum(priced) if priced else None


def _dollars(judge: Any, loaded: Workload, questions: int) -> float | None:
    """`questions`: every two replies to a prompt in both orders; each is asked `votes` times."""
    known = settings_of(judge) if judge is not None else {}
    if "endpoint" not in known:
        return None
    endpoint = known["endpoint"]
    sent = loaded.prompt_tokens + 2 * loaded.reply_tokens + QUESTION
    answered = max(endpoint.fields.get(name) or 0 for name in LIMITS) or known["max_answer_tokens"]
    price = sent * endpoint.dollars_per_million_input + answered * endpoint.dollars_per_million_output
    return min(questions * known["votes"] * price / 1e6, endpoint.max_dollars) if price else None
