"""The row plan: which pairs share an optimiser step and a batch, fixed before the reference pass and part of its key.

Reference and training run the same rows in the same batches, so at the first step the loss is ln 2 exactly. How a batch is
laid out is a setting: `shared.py` (prompt once, no padding) or `padded.py` (one row a reply: the oracle).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from drift.batches import cut
from drift.randomness import order
from drift.records import Pair, digest

VERSION = 2

Layout = Literal["shared", "padded"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Token ids of one prompt and one reply to it."""

    prompt: list[int]
    reply: list[int]


@dataclass(frozen=True, kw_only=True)
class PairRows:
    chosen: Row
    rejected: Row


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`pairs` in training order; `steps`: per optimiser step a list of batches, a batch being indices into `pairs`."""

    layout: Layout
    pairs: list[PairRows]
    steps: list[list[list[int]]]

    @property
    def key(self) -> str:
        return digest([VERSION, self.layout, [dataclasses.asdict(pair) for pair in self.pairs], self.steps])

    @property
    def batches(self) -> list[list[int]]:
        return [batch for step in self.steps for batch in step]

    def rows(self, batch: Sequence[int]) -> list[Row]:
        """The 2B rows of a batch of B pairs: the chosen ones first, then the rejected ones."""
        return [self.pairs[i].chosen for i in batch] + [self.pairs[i].rejected for i in batch]

    def workload(self) -> dict[str, float]:
        """`tokens` that one pass computes; the share of them that is padding; what sharing prompts saves of a row a reply."""
        rows = [self.rows(batch) for batch in self.batches]
        computed = sum(map(layout_module(self.layout).num_tokens, rows))
        needed = sum(len(row.prompt) + len(row.reply) for batch in rows for row in batch)
        return {
            "tokens": computed,
            "padding_share": round(max(0.0, 1 - needed / computed), 3),
            "prefix_saving": round(max(0.0, 1 - computed / needed), 3),
        }


def layout_module(layout: Layout) -> Any:
    """The module of a layout: its check_model(directory, longest), num_tokens(rows), collate(rows, pad_id) and
    reply_logprobs(model, batch)."""
    from drift.score import padded, shared

    return {"shared": shared, "padded": padded}[layout]


def tokenize(tokenizer: Any, pairs: Sequence[Pair]) -> list[PairRows]:
    from drift.model.chat import prompt_ids, reply_ids

    rows = []
    for pair in pairs:
        prompt = prompt_ids(tokenizer, pair.prompt)
        chosen = reply_ids(tokenizer, pair.prompt, pair.chosen, ended=pair.chosen_ended)
        rejected = reply_ids(tokenizer, pair.prompt, pair.rejected, ended=pair.rejected_ended)
        rows.append(PairRows(chosen=Row(prompt=prompt, reply=chosen), rejected=Row(prompt=prompt, reply=rejected)))
    return rows


def plan(
    pairs: Sequence[PairRows],
    *,
    layout: Layout,
    pairs_per_step: int,
    tokens_per_batch: int,
    pair_order: Literal["shuffled", "by_prompt"],
    seed: int,
) -> Plan:
    """Shuffles by content (`by_prompt`: whole prompts, so that the pairs of one lie together), cuts into steps, and a step
    into batches of about `tokens_per_batch`: pairs of one prompt side by side, and similar lengths in a batch."""
    shuffled = [pairs[i] for i in order(seed, "order", 0, [digest(dataclasses.asdict(pair)) for pair in pairs])]
    if pair_order == "by_prompt":
        first: dict[tuple[int, ...], int] = {}
        for i, pair in enumerate(shuffled):
            first.setdefault(tuple(pair.chosen.prompt), i)
        shuffled.sort(key=lambda pair: first[tuple(pair.chosen.prompt)])
    steps = []
    for low in range(0, len(shuffled), pairs_per_step):
        step = range(low, min(low + pairs_per_step, len(shuffled)))
        sizes = {i: layout_module(layout).num_tokens([shuffled[i].chosen, shuffled[i].rejected]) for i in step}
        prompts: dict[tuple[int, ...], list[int]] = {}
        for i in sorted(step, key=sizes.__getitem__):
            prompts.setdefault(tuple(shuffled[i].chosen.prompt), []).append(i)
        inside = [i for together in prompts.values() for i in together]
        steps.append(cut(inside, [sizes[i] for i in inside], tokens_per_batch))
    return Plan(layout=layout, pairs=shuffled, steps=steps)
