"""`train.tokens_per_batch=auto`: the most tokens of a batch that fit into the device's memory, found once and kept as a stage.

The number decides what is computed together, and so the rounding: the plan of the batches and everything after it depend on it.
That is why it is found before anything else, and why a run that goes on finds it in the store, whatever is free by then.

The first guess is the planner's (drift/plan). On a GPU it is tried: two steps on batches of that size, and if these run out of
memory or leave no room, on half as many tokens. This is the one place where running out of memory is not the end of a run. On a
CPU, where the system may end a process that asks for too much, the guess is not tried, and uses half of the free memory at most. On
several devices it is not tried either: it is the guess for one of them, by the strategy and how many there are.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from drift.console import say
from drift.engine.ranks import world
from drift.errors import UserError, is_out_of_memory
from drift.identity import identity
from drift.model import precision
from drift.model.architecture import config_of
from drift.model.policy import Policy
from drift.plan.device import Device, device_at_hand
from drift.plan.forecast import LEAST_TOKENS, MOST_TOKENS, SHARE, continued, most_tokens
from drift.plan.shape import shape_of
from drift.score.plan import layout_module
from drift.score.sequence import TokenSequence
from drift.store import Store
from drift.train.settings import Train

VERSION = 1
PROMPT = 8  # tokens of a prompt in a trial: nearly every token predicts another one, which takes the most memory
STEPS = 2  # of a trial: the optimiser's moments are there from the second one on


def with_number(run: Any, start: Policy) -> Any:
    """The run with a number in place of `train.tokens_per_batch=auto`."""
    return replace(run, train=numbered(run.train, start, run.store))


def numbered(train: Train, start: Policy, store: Store) -> Train:
    """The settings with a number in place of `auto`, found for this start model and this device."""
    if train.tokens_per_batch != "auto":
        return train
    device = device_at_hand()

    def work(progress: Path, output: Path) -> dict[str, Any]:
        return {"tokens_per_batch": find(train, start, device)}

    format_, dtype = train.formats
    names = ("optimizer", "layout", "gradient_checkpointing", "max_tokens")
    settings = {name: getattr(train, name) for name in names} | {"adapter": identity(train.adapter)}
    settings |= {"precision": [format_, dtype, precision.resolve(train.precision)]}
    settings |= {"device": device.name, "gib": round(device.total / 2**30)}
    settings |= {"devices": world(), "strategy": train.strategy} if world() > 1 else {}
    stage = store.run("batch_size", work, version=VERSION, settings=settings, inputs={"policy": start.fingerprint})
    found = stage.facts["tokens_per_batch"]
    say(f"  train.tokens_per_batch=auto is {found:,} tokens{' (found earlier)' if stage.hit else ''}.")
    return replace(train, tokens_per_batch=found)


def find(train: Train, start: Policy, device: Device) -> int:
    """The planner's number; on one GPU, the largest of it, its half, its quarter, … with which two steps of training leave room."""
    shape = shape_of(config_of(start.base))
    planned = train if shape is None else continued(train, start.directory, shape)
    if device.kind == "cpu" or world() > 1:
        if shape is None:
            raise UserError(
                "train.tokens_per_batch=auto needs the memory of this type of model, which is not known, and nothing is tried out "
                "on a CPU or on several devices. Give a number: train.tokens_per_batch=2048."
            )
        return most_tokens(planned, shape, device, world())
    from drift.model.policy import free
    from drift.train.fit import trainable

    guess = MOST_TOKENS[device.kind] if shape is None else most_tokens(planned, shape, device, world())
    sized, limit = replace(train, tokens_per_batch=guess), SHARE[device.kind] * device.free
    try:
        return largest_that_fits(guess, Trials(train, trainable(sized, start), limit))  # nothing else holds the model
    finally:
        free()


def largest_that_fits(tokens: int, peak_of: "Trials") -> int:
    """The first of `tokens`, its half, … whose peak is within `peak_of.limit`; says what it found."""
    while tokens >= LEAST_TOKENS:
        peak = peak_of(tokens)
        told = "out of memory" if peak == math.inf else f"{peak / 2**30:.1f} GiB at most"
        say(f"  Batches of {tokens:,} tokens: {told}, {peak_of.limit / 2**30:.1f} GiB are to be used.")
        if peak <= peak_of.limit:
            return tokens
        tokens //= 2
    raise UserError(
        f"train.tokens_per_batch=auto found that batches of {LEAST_TOKENS:,} tokens do not fit. The command with plan=true says "
        "what takes the memory, and what would fit."
    )


class Trials:
    """Trains for a few steps on batches of random tokens, with the program's own code: `trials(tokens)` is the peak in bytes (of a
    CPU it is not known), inf if a GPU's memory ran out. `model`: ready to train; it is spoilt. `limit`: bytes that may be used."""

    def __init__(self, train: Train, model: Any, limit: float) -> None:
        self.train, self.model, self.limit = replace(train, signal_every=0), model, limit

    def __call__(self, tokens: int) -> float:
        import torch

        from drift.model.policy import free

        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        fitted = self._fits(tokens)
        free()  # only now: in `_fits`, an error still holds what was allocated
        if not fitted:
            return math.inf
        return torch.cuda.max_memory_allocated() if cuda else math.nan

    def _fits(self, tokens: int) -> bool:
        try:
            self._steps(replace(self.train, tokens_per_batch=tokens))
        except Exception as error:
            if not out_of_memory(error):
                raise
            return False
        finally:
            self.model.zero_grad(set_to_none=True)
        return True

    def _steps(self, train: Train) -> None:
        from torch.utils.data import DataLoader

        from drift.objective.nll import Nll
        from drift.score.trainer import make_trainer
        from drift.train.modules import PolicyModule

        batch = batch_of(train, self.model.get_input_embeddings().num_embeddings)
        step = {"batches": [batch, batch], "singles": [], "mismatched": []}
        layout, none = layout_module(train.layout), {"check_start": False, "on_step": lambda history: None}
        module = PolicyModule(self.model, train, {"nll": Nll(weight=1.0)}, layout, STEPS, **none)
        loader = DataLoader([step] * STEPS, batch_size=None, collate_fn=lambda item: item)  # type: ignore[arg-type]
        make_trainer(train.formats[0], enable_checkpointing=False, max_epochs=1).fit(module, loader)


def batch_of(train: Train, vocabulary: int) -> dict[str, Any]:
    """A collated batch of `train.tokens_per_batch` random tokens, in sequences as long as the settings allow."""
    import torch

    total, layout = train.compute.tokens_per_batch, layout_module(train.layout)
    lengths = [train.max_tokens] * (total // train.max_tokens)
    if (rest := total % train.max_tokens) > PROMPT + 1 and (train.layout == "shared" or not lengths):
        lengths.append(rest)
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]
    count = len(ids)
    columns = {"reference": torch.zeros(count), "good": (True,) * count, "example": tuple(range(count))}
    return layout.collate([TokenSequence(prompt=row[:PROMPT], reply=row[PROMPT:]) for row in ids], 0) | columns


def out_of_memory(error: BaseException | None) -> bool:
    """Whether the error, or one that caused it, says that the memory ran out."""
    while error is not None:
        if is_out_of_memory(error):
            return True
        error = error.__cause__
    return False
