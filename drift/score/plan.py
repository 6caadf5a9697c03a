"""The plan: which examples share an optimiser step and a batch. It is made before the reference pass and belongs to its key.

Reference and training run the same sequences in the same batches, so at the first step the loss is exactly ln 2. The layout of a
batch is a setting: `shared.py` (each prompt once, no padding) or `padded.py` (one padded sequence per reply).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from drift.batches import cut
from drift.randomness import order
from drift.records import Example, digest
from drift.score.sequence import Layout, TokenSequence

VERSION = 3


@dataclass(frozen=True, kw_only=True)
class TokenisedExample:
    """An example's replies as sequences with the same prompt, and which of them are good. `hindsight`: the same replies after the
    prompt with the user's feedback in view, if the example has one."""

    sequences: list[TokenSequence]
    good: list[bool]
    hindsight: list[TokenSequence] = field(default_factory=list)

    @property
    def prompt(self) -> list[int]:
        return self.sequences[0].prompt

    @property
    def identity(self) -> str:
        """A hash of its content, which the training order depends on. A side with a single reply counts as that reply."""
        sides = {"chosen": self.side(True), "rejected": self.side(False)}
        plain = {name: [dataclasses.asdict(sequence) for sequence in sequences] for name, sequences in sides.items()}
        return digest({name: sequences[0] if len(sequences) == 1 else sequences for name, sequences in plain.items()})

    def side(self, good: bool) -> list[TokenSequence]:
        """The sequences of the good replies, or of the bad ones."""
        return [sequence for sequence, label in zip(self.sequences, self.good, strict=True) if label == good]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`examples`: in training order. `steps`: per optimiser step a list of batches, a batch being indices into `examples`.
    `mismatched`: per step, batches of sequences that join the prompt of one example with a reply of another, where an objective
    needs them."""

    layout: Layout
    examples: list[TokenisedExample]
    steps: list[list[list[int]]]
    mismatched: list[list[list[TokenSequence]]]

    @property
    def key(self) -> str:
        mismatched = [[[dataclasses.asdict(sequence) for sequence in batch] for batch in step] for step in self.mismatched]
        return digest([VERSION, self.layout, [dataclasses.asdict(one) for one in self.examples], self.steps, mismatched])

    @property
    def batches(self) -> list[list[int]]:
        return [batch for step in self.steps for batch in step]

    @property
    def passes(self) -> list[list[TokenSequence]]:
        """The sequences of every batch of the reference pass: those of `batches`, then the mismatched ones."""
        return [*map(self.sequences, self.batches), *(batch for step in self.mismatched for batch in step)]

    def places(self, batch: Sequence[int]) -> list[tuple[int, int]]:
        """(index of the example, index of its reply) of every sequence of a batch: the good replies first, then the bad ones."""
        every = [(i, k) for i in batch for k in range(len(self.examples[i].sequences))]
        return sorted(every, key=lambda place: not self.examples[place[0]].good[place[1]])

    def sequences(self, batch: Sequence[int]) -> list[TokenSequence]:
        """The sequences of a batch, in the order of `places`."""
        return [self.examples[i].sequences[k] for i, k in self.places(batch)]

    def workload(self) -> dict[str, float]:
        """The `tokens` that one pass computes, the share of them that is padding, and the share that shared prompts save."""
        computed = sum(map(layout_module(self.layout).num_tokens, self.passes))
        needed = sum(len(sequence.prompt) + len(sequence.reply) for batch in self.passes for sequence in batch)
        return {
            "tokens": computed,
            "padding_share": round(max(0.0, 1 - needed / computed), 3),
            "prefix_saving": round(max(0.0, 1 - computed / needed), 3),
        }


def layout_module(layout: Layout) -> Any:
    """The module of a layout, with check_model(directory, longest), num_tokens(sequences), collate(sequences, pad_id) and
    reply_logprobs(model, batch)."""
    from drift.score import padded, shared

    return {"shared": shared, "padded": padded}[layout]


def tokenize(tokenizer: Any, examples: Sequence[Example]) -> list[TokenisedExample]:
    """The examples as token ids."""
    from drift.model.chat import prompt_ids, reply_ids

    tokenised = []
    for example in examples:
        prompt = prompt_ids(tokenizer, example.prompt)
        replies = [reply_ids(tokenizer, example.prompt, reply.text, ended=reply.ended) for reply in example.replies]
        sequences = [TokenSequence(prompt=prompt, reply=reply) for reply in replies]
        told = prompt_ids(tokenizer, example.hindsight) if example.hindsight else None
        hindsight = [TokenSequence(prompt=told, reply=reply) for reply in replies] if told else []
        good = [reply.good for reply in example.replies]
        tokenised.append(TokenisedExample(sequences=sequences, good=good, hindsight=hindsight))
    return tokenised


def make_plan(
    examples: Sequence[TokenisedExample],
    *,
    layout: Layout,
    examples_per_step: int,
    tokens_per_batch: int,
    example_order: Literal["shuffled", "by_prompt"],
    seed: int,
    longest_mismatched: int | None,
) -> Plan:
    """Shuffles by content (`by_prompt`: keeps the examples of a prompt together), cuts the examples into steps, and each step into
    batches of about `tokens_per_batch`, with the examples of a prompt side by side and similar lengths in a batch.
    `longest_mismatched`: the most tokens of a mismatched sequence; None: there are none."""
    shuffled = [examples[i] for i in order(seed, "order", 0, [one.identity for one in examples])]
    if example_order == "by_prompt":
        first: dict[tuple[int, ...], int] = {}
        for i, one in enumerate(shuffled):
            first.setdefault(tuple(one.prompt), i)
        shuffled.sort(key=lambda one: first[tuple(one.prompt)])
    size_of = layout_module(layout).num_tokens
    steps, mismatched_steps = [], []
    for low in range(0, len(shuffled), examples_per_step):
        step = range(low, min(low + examples_per_step, len(shuffled)))
        sizes = {i: size_of([*shuffled[i].side(True), *shuffled[i].side(False)]) for i in step}
        prompts: dict[tuple[int, ...], list[int]] = {}
        for i in sorted(step, key=sizes.__getitem__):
            prompts.setdefault(tuple(shuffled[i].prompt), []).append(i)
        ordered = [i for same_prompt in prompts.values() for i in same_prompt]
        steps.append(cut(ordered, [sizes[i] for i in ordered], tokens_per_batch))
        if longest_mismatched is not None:
            own = [sequence for i in ordered for sequence in shuffled[i].sequences]
            sequences = swap_replies(own, longest_mismatched)
            batches = cut(range(len(sequences)), [size_of([sequence]) for sequence in sequences], tokens_per_batch)
            mismatched_steps.append([[sequences[i] for i in batch] for batch in batches])
    return Plan(layout=layout, examples=shuffled, steps=steps, mismatched=mismatched_steps)


def swap_replies(sequences: Sequence[TokenSequence], longest: int) -> list[TokenSequence]:
    """Every prompt with the reply of the previous sequence (the first with the last one's), unless both have the same prompt, or
    together more than `longest` tokens: a model may be checked for that length and no more."""
    previous = [*sequences[-1:], *sequences[:-1]]
    return [
        TokenSequence(prompt=one.prompt, reply=other.reply)
        for one, other in zip(sequences, previous, strict=True)
        if one.prompt != other.prompt and len(one.prompt) + len(other.reply) <= longest
    ]
