"""How much disk a run and its trainings need, from the headers of the start model's weights: said, or refused, before they start.

A policy with full weights has the numbers of the start model, in the type that is trained. A checkpoint has the trained numbers and
the optimiser's; while the next one is written, there are two. An error needs certainty: only what will certainly be written counts
for it. What the log, the replies and the scores take is small beside weights, and is left out."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.console import say
from drift.errors import UserError
from drift.model.adapter import WEIGHTS
from drift.model.architecture import config_of
from drift.model.files import all_tensors, read_object, tensors
from drift.model.policy import Policy
from drift.store.disk import free_bytes, in_bytes
from drift.train.settings import Train

BYTES = {"float32": 4, "bfloat16": 2}
STATES = {"adamw": 2, "rmsprop": 1}  # numbers that an optimiser keeps for a trained one, in its format; adamw_8bit: two bytes
SAID_FROM = 1e9  # bytes; a run that needs less says nothing, if that is free
LAYER = re.compile(r"\.(?:layers|h)\.(\d+)\..*weight")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """In bytes. `policy`: what a trained policy takes; `least`: what it certainly takes (a head may be tied to the embeddings);
    `checkpoint`: one of its training."""

    policy: int
    least: int
    checkpoint: int


def sizes(train: Train, start: Policy) -> Sizes:
    """Of any policy trained from this start model, in this or a later iteration."""
    if train.adapter is None:
        width, held = BYTES[train.formats[1]], all_tensors(start.base)
        tied = read_object(start.base / "config.json").get("tie_word_embeddings") is not False
        numbers = sum(math.prod(shape) for _, shape in held.values())
        sure = numbers - sum(math.prod(shape) for name, (_, shape) in held.items() if tied and name.startswith("lm_head."))
    else:
        width = BYTES["float32"]
        numbers = sure = _adapter_numbers(train, start)
    state = 2 if train.optimizer == "adamw_8bit" else width * STATES[train.optimizer]
    return Sizes(policy=width * numbers, least=width * sure, checkpoint=sure * (width + state))


def _adapter_numbers(train: Train, start: Policy) -> int:
    """Those of the start model's own adapter, or of a new one on its matrices."""
    if start.is_adapter:
        return sum(math.prod(shape) for _, shape in tensors(start.directory / WEIGHTS).values())
    assert train.adapter is not None
    matrices = {name: shape for name, (_, shape) in all_tensors(start.base).items() if LAYER.search(name) and len(shape) == 2}
    layer = {name: int(found[1]) for name in matrices if (found := LAYER.search(name))}
    chosen = train.adapter.layers(max(layer.values(), default=0) + 1)
    return sum(train.adapter.rank * sum(shape) for name, shape in matrices.items() if layer[name] in chosen)


def trainings(run: Any) -> int:
    """How many policies a run trains."""
    return run.iterations + bool(run.warmup_epochs)


def samples_of(method: Any) -> int:
    """How many fresh replies a method draws for an example, about."""
    return getattr(method, "num_samples", 1) if method.paired else 0


def replies_of(method: Any) -> int:
    """How many replies an example has: the fresh ones and a logged one; where a judge ranks them, the best and the worst."""
    return 2 if method.judge is not None else 1 + samples_of(method)


def kept_policies(run: Any) -> int:
    """How many of them stay at least, whatever they score."""
    keep = run.store.keep_policies
    return trainings(run) if run.train.adapter is not None or keep == "all" else min(keep, trainings(run))


def most_policies(run: Any) -> int:
    """How many are on the disk at once, at most: the last ones, the best one, and the one being written."""
    return min(trainings(run), kept_policies(run) + 2)


def check_run(run: Any, start: Policy) -> None:
    """Says what the run needs at most, if that is much; warns if it may not be free. Refuses the run if its policies certainly do
    not fit: none can be in the store yet."""
    count, folder = trainings(run), Path(run.store.dir)
    if not count:
        return
    one, free, adapter = sizes(run.train, start), free_bytes(folder), run.train.adapter is not None
    sure = one.least * kept_policies(run)
    if sure > free and not any((folder.resolve() / "train").glob("*/manifest.json")):
        fewer = "" if adapter else " or keep fewer policies (store.keep_policies=1),"
        raise UserError(
            f"This run writes {count} policies of {in_bytes(one.least)}, of which {in_bytes(sure)} stay in {folder}, where "
            f"{in_bytes(free)} are free. Choose another folder with store.dir=FOLDER,{fewer} or free some: drift store {folder}"
        )
    most = most_policies(run)
    parts: dict[str, float] = {f"{most} policies of {in_bytes(one.policy)}": most * one.policy, "checkpoints": 2 * one.checkpoint}
    parts["outputs of frozen layers"] = count * frozen_bytes(run, start)
    listed = ", ".join(f"{name}: {in_bytes(size)}" for name, size in parts.items() if size)
    total = sum(parts.values())
    if total > free:
        say(
            f"Note: this run may need up to {in_bytes(total)} in {folder} ({listed}), less what is there already, and "
            f"{in_bytes(free)} are free. If they run out, it stops with everything kept, and the same command goes on."
        )
    elif total > SAID_FROM:
        say(f"  Disk: up to {in_bytes(total)} in {folder} ({listed}); {in_bytes(free)} are free.")


def frozen_bytes(run: Any, start: Policy) -> float:
    """The most that the reference pass of an iteration keeps for its training (see frozen.py)."""
    train = run.train
    if train.adapter is None or train.layout == "padded" or train.adapter.top_share == 1:
        return 0
    most = train.frozen_cache_gib * 2**30
    if run.examples_per_iteration is None:
        return most
    width = config_of(start.base).get_text_config(decoder=True).hidden_size * BYTES[train.formats[1]]
    return min(most, run.examples_per_iteration * max(2, replies_of(run.method)) * train.max_tokens * width)


def check_training(folder: Path, train: Train, start: Policy, *, num_steps: int, resumed: bool) -> None:
    """Refuses a training whose policy and checkpoints won't fit on the disk, before its first step. `resumed`: one checkpoint is
    there already."""
    one, free = sizes(train, start), free_bytes(folder)
    copies = min(2, num_steps // train.checkpoint_every_steps)
    peak = max(copies * one.checkpoint, min(1, copies) * one.checkpoint + one.least)
    need = peak - min(copies, resumed) * one.checkpoint
    if need > free:
        raise UserError(
            f"Training needs {in_bytes(need)} more in {folder} (a policy of {in_bytes(one.least)}, checkpoints of "
            f"{in_bytes(one.checkpoint)}), and {in_bytes(free)} are free. Free some (drift store {folder} lists what nothing "
            "refers to), or choose another folder with store.dir=FOLDER. Finished stages are kept: the same command goes on."
        )
