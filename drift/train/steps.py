"""The batches of a training's optimiser steps, dealt to the ranks."""

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from drift.batches import deal
from drift.engine.ranks import rank, world
from drift.randomness import order
from drift.score.frozen_outputs import load_output
from drift.score.plan import Plan, layout_module
from drift.score.reference import Reference
from drift.score.sequence import TokenSequence


class Steps:
    """The loader of `PolicyModule`: one optimiser step per item, from the first step that the module has not done yet. With several
    ranks: this rank's batches; one with fewer than another gets the step's smallest batch once more, to `fill` up, because all must
    take part in the same number of passes. `given`: how often an example was in a batch that counts."""

    def __init__(self, module: Any, plan: Plan, steps: list[int], reference: Reference, frozen: Path | None, pad_id: int) -> None:
        self.module, self.plan, self.steps, self.reference, self.pad_id = module, plan, steps, reference, pad_id
        self.frozen = frozen
        self.given = Counter[int]()

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[dict[str, list[dict[str, Any]]]]:
        plan = self.plan
        first = [0, *accumulate(map(len, plan.steps))]  # of each step: the number of its first batch in `plan.passes`
        first_mismatched = [*accumulate(map(len, plan.mismatched), initial=len(plan.batches))]
        for done, index in enumerate(self.steps[len(self.module.history) :], start=len(self.module.history)):
            batches, mismatched = plan.steps[index], plan.mismatched[index] if plan.mismatched else []
            made, swapped = [], []
            for k, fill in self._mine([plan.sequences(batch) for batch in batches]):
                made.append(self._batch(batches[k], first[index] + k) | fill)
                self.given.update([] if fill else batches[k])
            for k, fill in self._mine(mismatched):
                values = self.reference.mismatched[index][k]
                swapped.append(self._tensors(mismatched[k], values, first_mismatched[index] + k) | fill)
            singles = self._singles(batches, first[index]) if self.module.measured(done) else []
            yield {"batches": made, "singles": singles, "mismatched": swapped}

    def _mine(self, batches: list[list[TokenSequence]]) -> list[tuple[int, dict[str, bool]]]:
        """This rank's batches of a step: (its number, {} or what marks it as one that fills up)."""
        sizes = list(map(layout_module(self.plan.layout).num_tokens, batches))
        parts = deal(sizes, world())
        missing = max(map(len, parts)) - len(parts[rank()])
        smallest = sorted(range(len(sizes)), key=sizes.__getitem__)[:missing]
        return [(k, {}) for k in parts[rank()]] + [(k, {"fill": True}) for k in smallest]

    def _singles(self, batches: list[list[int]], first: int) -> list[dict[str, Any]]:
        """The examples one by one: this rank's, or all where the weights are divided, so that no rank can compute alone."""
        mine = self._mine([self.plan.sequences(batch) for batch in batches])
        numbers = range(len(batches)) if self.module.divided else [k for k, fill in mine if not fill]
        return [one for k in numbers for one in self._one_by_one(batches[k], self._batch(batches[k], first + k))]

    def _batch(self, batch: list[int], number: int | None) -> dict[str, Any]:
        """The tensors of examples, with their labels; `number`: that of their batch in `plan.passes`, to load frozen outputs."""
        import torch

        places = self.plan.places(batch)
        labels: dict[str, Any] = {
            "good": tuple(self.plan.examples[i].good[k] for i, k in places),
            "example": tuple(batch.index(i) for i, _ in places),
        }
        if hindsight := self.reference.hindsight_tokens(self.plan, batch):
            labels["hindsight"] = torch.tensor(hindsight)
        return self._tensors(self.plan.sequences(batch), self.reference.sequences(self.plan, batch), number) | labels

    def _tensors(self, sequences: list[TokenSequence], reference: list[float], number: int | None) -> dict[str, Any]:
        import torch

        tensors = self.module.layout.collate(sequences, self.pad_id) | {"reference": torch.tensor(reference)}
        return tensors | ({"hidden": load_output(self.frozen, number)} if self.frozen and number is not None else {})

    def _one_by_one(self, batch: list[int], tensors: dict[str, Any]) -> list[dict[str, Any]]:
        """The examples of a batch, each as a batch of its own. `tensors`: those of the whole batch."""
        singles = [self._batch([i], None) for i in batch]
        if "hidden" in tensors:
            for number, single in enumerate(singles):
                sequences = [i for i, example in enumerate(tensors["example"]) if example == number]
                single["hidden"] = tensors["hidden"][self.module.layout.tokens_of(tensors, sequences)]
        return singles

    def state_dict(self) -> dict[str, Any]:  # the module's history says where to resume; without these two Lightning would warn
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def ordered_steps(plan: Plan, epochs: int) -> list[int]:
    """The step indices of all epochs: first in the plan's order, then shuffled again for each further epoch."""
    names = [str(step) for step in plan.steps]
    further = [order(epoch, "epoch", 0, names) for epoch in range(1, epochs)]
    return [*range(len(names)), *(i for epoch in further for i in epoch)]
