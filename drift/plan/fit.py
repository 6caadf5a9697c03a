"""Refuses a run that can't fit into the device's memory, and names the smallest change that would.

The device's whole memory counts as available, not what is free now: that changes from minute to minute."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, Literal

from drift.errors import UserError
from drift.plan.forecast import LEAST_TOKENS, Forecast, forecast
from drift.plan.text import gib

SAME_TRAINING = {"train.tokens_per_batch", "sampler.tokens_per_batch", "train.gradient_checkpointing"}  # change no policy
Settings = dict[str, str]


def fits(found: Forecast) -> bool:
    return found.peak[1] <= found.device.total


def refuse_too_large(run: Any, found: Forecast) -> None:
    """Raises UserError if a stage needs more memory than the device has."""
    if fits(found):
        return
    stage, peak = found.peak
    all_of_them = f" for {found.setup.devices} processes" if found.device.kind == "cpu" and found.setup.devices > 1 else ""
    parts = ", ".join(f"{part} {gib(size)}" for part, size in found.stages[stage].items())
    raise UserError(
        f"This run does not fit: {stage} needs about {gib(peak)} GiB of memory{all_of_them} ({parts}), and {found.device.name} has "
        f"{gib(found.device.total)}. {advice(run, found)}"
    )


def advice(run: Any, found: Forecast) -> str:
    """The first of `changes` with which the run fits; where it changes how the policy is trained, more devices too."""
    others = more_devices(run, found)
    for settings, changed in changes(run):
        new = forecast(changed, found.shape, found.device, found.rates)
        if fits(new):
            given = " ".join(f"{name}={value}" for name, value in settings.items())
            instead = f", or {others}" if others and settings.keys() - SAME_TRAINING else ""
            return f"It would fit with {given} (about {gib(new.peak[1])} GiB){instead}.{needs(changed.train)}"
    if others:
        return f"It would fit {others}."
    return "No setting of training or sampling makes it fit: choose a smaller model, or a device with more memory."


def needs(train: Any) -> str:
    """A sentence on the package that a training needs and that is not installed; "" for most."""
    try:
        train.check()
    except UserError as error:
        return f" {error}"
    return ""


def more_devices(run: Any, found: Forecast) -> str | None:
    """The least number of GPUs that the run fits on if its weights are divided among them, with the memory of each."""
    for devices in (2, 4, 8, 16) if found.device.kind == "cuda" and can_divide(run.train) else ():
        new = forecast(divided(run, devices), found.shape, found.device, found.rates)
        if devices >= run.devices and fits(new):
            return f"with devices={devices} train.strategy=fsdp (about {gib(new.peak[1])} GiB on each)"
    return None


def can_divide(train: Any) -> bool:
    """Whether fsdp can divide the weights and the optimiser."""
    try:
        replace(train, strategy="fsdp").check_devices(2)
    except UserError:
        return False
    return True


def divided(run: Any, devices: int) -> Any:
    return replace(run, devices=devices, train=replace(run.train, strategy="fsdp"))


def changes(run: Any) -> Iterator[tuple[Settings, Any]]:
    """(settings, the run with them): ways to train from the user's own to the cheapest, each with ever fewer tokens in memory."""
    for (way, train), drawn in product(ways(run.train), halvings(run.sampler.tokens_per_batch)):
        for tokens in halvings(train.tokens_per_batch):
            settings = dict(way)
            if tokens != run.train.tokens_per_batch:
                settings["train.tokens_per_batch"] = str(tokens)
            if drawn != run.sampler.tokens_per_batch:
                settings["sampler.tokens_per_batch"] = str(drawn)
            less = replace(run.sampler, tokens_per_batch=drawn)
            if run.devices > 1 and train.strategy == "fsdp" and not can_divide(train):
                continue
            yield settings, replace(run, train=replace(train, tokens_per_batch=tokens), sampler=less)


def halvings(tokens: int | Literal["auto"]) -> list[Any]:
    """Of a number of tokens, down to LEAST_TOKENS; `auto` is as small as it must be already."""
    if tokens == "auto":
        return [tokens]
    found = [tokens]
    while found[-1] // 2 >= LEAST_TOKENS:
        found.append(found[-1] // 2)
    return found


def ways(train: Any) -> Iterator[tuple[Settings, Any]]:
    """The user's training; with checkpointing; with one-byte moments, and bfloat16 weights if they would learn; LoRA; LoRA over
    four bits."""
    yield from checkpointed({}, train)
    settings: Settings = {} if train.gradient_checkpointing else {"train.gradient_checkpointing": "true"}
    train = replace(train, gradient_checkpointing=True)
    if train.adapter is None:
        if train.optimizer != "adamw_8bit":
            settings, train = settings | {"train.optimizer": "adamw_8bit"}, replace(train, optimizer="adamw_8bit")
            yield settings, train
        narrow = replace(train, parameters="bfloat16")
        if train.formats[0] == "bf16-mixed" and not narrow.rounds_updates_away:
            settings, train = settings | {"train.parameters": "bfloat16"}, narrow
            yield settings, train
        yield from checkpointed(*with_adapter(train, "lora"))
    if train.adapter is None or train.adapter.quantization == "none":
        yield from checkpointed(*with_adapter(train, "qlora"))


def checkpointed(settings: Settings, train: Any) -> Iterator[tuple[Settings, Any]]:
    """The training as it is, and with checkpointing."""
    yield settings, train
    if not train.gradient_checkpointing:
        yield settings | {"train.gradient_checkpointing": "true"}, replace(train, gradient_checkpointing=True)


def with_adapter(train: Any, option: str) -> tuple[Settings, Any]:
    """An option of `train`, with the lengths, the layout and the precision of a training."""
    from hydra.utils import instantiate

    from drift.compose import compose

    new = instantiate(compose([f"train={option}"]).train, _convert_="all")  # unchecked: a package that it needs can be installed
    settings = {"train": option} | ({"train.max_tokens": str(train.max_tokens)} if new.max_tokens != train.max_tokens else {})
    names = ("max_tokens", "tokens_per_batch", "layout", "precision", "strategy", "cpu_offload")
    kept = {name: getattr(train, name) for name in names}
    return settings, replace(new, **kept)
