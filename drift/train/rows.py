"""The row plan: which pairs share an optimiser step and a batch, fixed before the reference pass and part of its key.

Reference and training run the same rows in the same batches, so at the first step the loss is ln 2 exactly. Here rows are
plain: prompt + reply, padded on the right, chosen rows first and rejected rows after them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drift.records import Pair, digest
from drift.sampler.noise import order

VERSION = 1


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

    pairs: list[PairRows]
    steps: list[list[list[int]]]

    @property
    def key(self) -> str:
        return digest([VERSION, [dataclasses.asdict(pair) for pair in self.pairs], self.steps])

    @property
    def batches(self) -> list[list[int]]:
        return [batch for step in self.steps for batch in step]


def tokenize(tokenizer: Any, pairs: Sequence[Pair]) -> list[PairRows]:
    from drift.model.chat import prompt_ids, reply_ids

    rows = []
    for pair in pairs:
        prompt = prompt_ids(tokenizer, pair.prompt)
        chosen = reply_ids(tokenizer, pair.prompt, pair.chosen, ended=pair.chosen_ended)
        rejected = reply_ids(tokenizer, pair.prompt, pair.rejected, ended=pair.rejected_ended)
        rows.append(PairRows(chosen=Row(prompt=prompt, reply=chosen), rejected=Row(prompt=prompt, reply=rejected)))
    return rows


def plan(pairs: Sequence[PairRows], *, pairs_per_step: int, pairs_per_batch: int, seed: int) -> Plan:
    """Shuffles by content, cuts into steps, and sorts each step by length so that its batches need little padding."""
    shuffled = [pairs[i] for i in order(seed, "order", 0, [digest(dataclasses.asdict(pair)) for pair in pairs])]
    steps = []
    for low in range(0, len(shuffled), pairs_per_step):
        step = sorted(range(low, min(low + pairs_per_step, len(shuffled))), key=lambda i: _length(shuffled[i]))
        steps.append([step[k : k + pairs_per_batch] for k in range(0, len(step), pairs_per_batch)])
    return Plan(pairs=shuffled, steps=steps)


def _length(pair: PairRows) -> int:
    return len(pair.chosen.prompt) + max(len(pair.chosen.reply), len(pair.rejected.reply))


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
    """Right-padded tensors of `(R, T)`: input_ids, attention_mask, and reply_mask (True on the reply's tokens)."""
    import torch

    width = max(len(row.prompt) + len(row.reply) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    reply = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        whole = len(row.prompt) + len(row.reply)
        ids[i, :whole] = torch.tensor([*row.prompt, *row.reply])
        attention[i, :whole] = 1
        reply[i, len(row.prompt) : whole] = True
    return {"input_ids": ids, "attention_mask": attention, "reply_mask": reply}


def collate_pairs(pairs: Sequence[PairRows], pad_id: int) -> dict[str, Any]:
    """A batch of B pairs as `(2B, T)` tensors: chosen rows first, then rejected ones."""
    return collate([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs], pad_id)
