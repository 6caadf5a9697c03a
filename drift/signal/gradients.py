"""The gradient of a reply, s(y) = grad log pi(y | x), by the weights of the adapter that training would start with.

An adapter has a million weights, so each gradient is kept as SIZE numbers: every weight's part is added, with a random sign, to a
random one of them (a count sketch, Charikar et al. 2002). Inner products stay what they were, up to an error of 1 / sqrt(SIZE) =
1.1 % of the product of the two norms (one standard deviation); with at most SIZE weights they are exact.

Replies are computed in batches: the gradient by a linear layer's weight is a sum over a reply's tokens, of the gradient by the
layer's output times its input, and one backward pass over many replies gives both for every token. Groups of replies are stages.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from drift.console import Progress
from drift.engine.models import OneModel
from drift.errors import UserError, memory_advice
from drift.finite import broken_weights, need_finite
from drift.identity import identity
from drift.model.policy import Policy
from drift.records import digest
from drift.score.plan import layout_module
from drift.score.sequence import TokenSequence
from drift.store import Store
from drift.train.settings import Train

VERSION = 1
SIZE = 8192  # numbers that a gradient is kept as
GROUP = 32  # replies in a stage
FILE = "gradients.safetensors"

GradientsOf = Callable[[Sequence[TokenSequence], Callable[[int], None]], tuple[Any, Any]]  # see open_gradients


class Gradients:
    """The gradients of all replies that were asked for, each computed once. Use as a context manager. `trained`: the number of the
    adapter's weights."""

    def __init__(self, store: Store, train: Train, policy: Policy) -> None:
        if train.adapter is None:
            raise UserError("drift signal measures the gradients of an adapter, which train=full does not have. Use train=lora.")
        self.store, self.train, self.policy, self.trained = store, train, policy, 0
        self.lengths: list[int] = []  # reply tokens
        self.squares: list[float] = []  # the exact squared norms
        self._vectors: list[Any] = []
        self._index: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        self._model = OneModel()

    def __enter__(self) -> "Gradients":
        return self

    def __exit__(self, *error: Any) -> None:
        self._model.__exit__(*error)

    def add(self, sequences: Sequence[TokenSequence], label: str) -> list[int]:
        """The index of every reply's gradient; those that are missing are computed, in groups, in this order."""
        keys = [(tuple(sequence.prompt), tuple(sequence.reply)) for sequence in sequences]
        missing = list({key: one for key, one in zip(keys, sequences, strict=True) if key not in self._index}.items())
        with Progress(f"gradients: {label}", total=len(missing), unit="replies") as progress:
            for low in range(0, len(missing), GROUP):
                group = missing[low : low + GROUP]
                begun = progress.done
                vectors, squares = self._group([sequence for _, sequence in group], progress.advance)
                progress.reach(begun + len(group))
                for (key, sequence), vector, square in zip(group, vectors, squares, strict=True):
                    self._index[key] = len(self.lengths)
                    self._vectors.append(vector)
                    self.squares.append(float(square))
                    self.lengths.append(len(sequence.reply))
        return [self._index[key] for key in keys]

    def matrix(self) -> Any:
        """`(n, SIZE)` float32 array of the gradients."""
        import numpy as np

        return np.stack(self._vectors)

    def _group(self, group: list[TokenSequence], tick: Callable[[int], None]) -> tuple[Any, Any]:
        """`(n, SIZE)` projected gradients and `(n,)` exact squared norms, as arrays."""
        from safetensors.numpy import load_file, save_file

        compute, adapter = self.train.compute, self.train.adapter

        def work(progress: Path, output: Path) -> dict[str, Any]:
            gradients_of, trained = self._model.get("gradients", partial(open_gradients, self.train, self.policy, SIZE))
            with memory_advice("train.tokens_per_batch", compute.tokens_per_batch):
                vectors, squares = gradients_of(group, tick)
            norms = {f"the gradient of reply {i}": float(square) for i, square in enumerate(squares, start=1)}
            need_finite(norms, "Gradients", broken_weights(self.policy.directory, "train.precision"))
            save_file({"vectors": vectors.numpy(), "squares": squares.numpy()}, output / FILE)
            return {"replies": len(group), "trained": trained}

        numbers = [compute.lightning, compute.dtype, compute.layout, compute.tokens_per_batch]
        settings = {"compute": numbers, "adapter": identity(adapter), "size": SIZE}
        inputs = {"policy": self.policy.fingerprint, "rows": digest([asdict(sequence) for sequence in group])}
        stage = self.store.run("gradients", work, version=VERSION, settings=settings, inputs=inputs)
        self.trained = stage.facts["trained"]
        found = load_file(stage.path / FILE)
        return found["vectors"], found["squares"]


@contextmanager
def open_gradients(train: Train, policy: Policy, size: int) -> Iterator[tuple[GradientsOf, int]]:
    """Loads the policy with the adapter that training would start with; yields `gradients_of(sequences, tick)` and the number of
    the adapter's weights; frees the model. `gradients_of` returns `(n, size)` projected gradients and `(n,)` exact squared norms,
    on the CPU; `tick(count)` is called with the number of replies just done."""
    import torch

    from drift.model.policy import free, load_tokenizer
    from drift.train.fit import trainable

    loaded, pad = [trainable(train, policy).eval()], load_tokenizer(policy).pad_token_id or 0
    linear = [part for part in loaded[0].modules() if isinstance(part, torch.nn.Linear) and part.weight.requires_grad]
    trained = sum(weight.numel() for weight in loaded[0].parameters() if weight.requires_grad)
    assert trained == sum(part.weight.numel() for part in linear), "an adapter's weights are those of linear layers"
    places = buckets([part.weight.numel() for part in linear], size)
    places = [place.to(linear[0].weight.device) for place in places]

    def gradients_of(sequences: Sequence[TokenSequence], tick: Callable[[int], None]) -> tuple[Any, Any]:
        vectors, squares = torch.zeros(len(sequences), size), torch.zeros(len(sequences), dtype=torch.float64)
        for batch in batches(sequences, train.compute.tokens_per_batch):
            index = torch.tensor(batch)
            mine = [sequences[i] for i in batch]
            vectors[index], squares[index] = batch_gradients(loaded[0], linear, places, train, mine, pad, size)
            tick(len(batch))
        return vectors, squares

    try:
        yield gradients_of, trained
    finally:
        loaded.clear()
        linear.clear()
        free()


def batch_gradients(
    model: Any, linear: Sequence[Any], places: Sequence[Any], train: Train, sequences: Sequence[TokenSequence], pad: int, size: int
) -> tuple[Any, Any]:
    """The gradients of replies to different prompts, as one batch: `(n, size)` projected, `(n,)` exact squared norms (float64)."""
    import torch

    layout, device = layout_module(train.layout), linear[0].weight.device
    collated = layout.collate(sequences, pad)
    tokens = tokens_of_each(train.layout, collated, len(sequences))
    batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in collated.items()}
    mixed = train.compute.lightning == "bf16-mixed"
    with captured(linear) as seen, torch.enable_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed):
        sums = layout.reply_logprobs(model, batch)[0]
        gradients = torch.autograd.grad(sums.sum(), [output for _, output in seen])
    sums_of_signs = torch.zeros(len(sequences), 2 * size, device=device)
    squares = torch.zeros(len(sequences), dtype=torch.float64)
    for (inputs, _), gradient, place in zip(seen, gradients, places, strict=True):
        flat_inputs, flat_gradient = (each.flatten(0, 1).float() for each in (inputs, gradient))
        for i, mine in enumerate(tokens):
            own = (flat_gradient[mine].T @ flat_inputs[mine]).flatten()
            sums_of_signs[i].index_add_(0, place, own)
            squares[i] += float(own.square().sum())
    return (sums_of_signs[:, :size] - sums_of_signs[:, size:]).cpu(), squares


@contextmanager
def captured(linear: Sequence[Any]) -> Iterator[list[tuple[Any, Any]]]:
    """(input, output) of each of these layers in the forward pass that happens inside, in the order of `linear`."""
    seen: dict[int, tuple[Any, Any]] = {}
    ordered: list[tuple[Any, Any]] = []
    hooks = []
    for i, part in enumerate(linear):

        def keep(_: Any, inputs: Any, output: Any, i: int = i) -> None:
            assert i not in seen, "a layer that is used twice"
            seen[i] = (inputs[0].detach(), output)
            if len(seen) == len(linear):
                ordered.extend(seen[k] for k in range(len(linear)))

        hooks.append(part.register_forward_hook(keep))
    try:
        yield ordered
    finally:
        for hook in hooks:
            hook.remove()


def tokens_of_each(layout: str, batch: dict[str, Any], count: int) -> list[Any]:
    """The positions of each sequence among all tokens of a batch, for sequences without a common prompt."""
    import torch

    if layout == "shared":
        from drift.score import shared

        return [shared.tokens_of(batch, [i]) for i in range(count)]
    width = batch["input_ids"].shape[1]
    return [torch.arange(i * width, (i + 1) * width) for i in range(count)]


def buckets(counts: Sequence[int], size: int) -> list[Any]:
    """For each weight of several tensors with so many weights, the number that it is added to: below `size` with a plus sign, from
    there on with a minus sign."""
    import torch

    total = sum(counts)
    if total <= size:
        return list(torch.arange(total).split(list(counts)))
    drawn = torch.randint(0, 2 * size, (total,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    return list(drawn.split(list(counts)))


def batches(sequences: Sequence[TokenSequence], limit: int) -> list[list[int]]:
    """Indices in batches of similar lengths, of about `limit` tokens, in none of which two have the same prompt: sequences that
    share the computation of a prompt could not be told apart."""
    made: list[list[int]] = []
    by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i].prompt) + len(sequences[i].reply))
    for i in by_length:
        size = len(sequences[i].prompt) + len(sequences[i].reply)
        for batch in made:
            fits = (len(batch) + 1) * size <= limit
            if fits and all(sequences[j].prompt != sequences[i].prompt for j in batch):
                batch.append(i)
                break
        else:
            made.append([i])
    return made
