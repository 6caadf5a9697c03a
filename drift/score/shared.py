"""Prefix-shared sequences without padding (after arXiv 2410.20305): a prompt is computed once, every reply attends to it and
to itself and never to another reply; only positions that predict a reply token reach the vocabulary.

All sequences of a batch lie one after another in a single row `(1, T)`; `attention.py` sees to who sees whom. The model's
code is untouched: position ids, and an attention function registered under a name of its own.

A reply's last token predicts nothing and is seen by nobody: it is a target only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drift.errors import UserError
from drift.model.architecture import causal
from drift.model.family import objection
from drift.model.policy import without_adapter
from drift.score import attention
from drift.score.logprobs import token_logprobs
from drift.score.sequence import TokenSequence


def num_tokens(sequences: Sequence[TokenSequence]) -> int:
    """Tokens that a batch of these sequences computes."""
    return sum(map(len, {tuple(sequence.prompt) for sequence in sequences})) + sum(
        len(sequence.reply) - 1 for sequence in sequences
    )


def collate(sequences: Sequence[TokenSequence], pad_id: int) -> dict[str, Any]:
    """One row of T tokens for R sequences with N reply tokens: input_ids, position_ids `(1, T)`; predict `(N,)`, the positions that
    predict the reply tokens targets `(N,)` of the sequences owner `(N,)`; reply_lengths `(R,)`; spans, who sees whom."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, sequence in enumerate(sequences):
        groups.setdefault(tuple(sequence.prompt), []).append(i)
    ids: list[int] = []
    positions: list[int] = []
    predict: dict[int, list[int]] = {}
    spans: list[attention.Span] = []
    for prompt, members in groups.items():
        begin, end = len(ids), len(ids) + len(prompt)
        ids += prompt
        positions += range(len(prompt))
        spans.append((begin, end, begin, begin))
        for i in members:
            first, seen = len(ids), sequences[i].reply[:-1]
            ids += seen
            positions += range(len(prompt), len(prompt) + len(seen))
            spans.append((first, first + len(seen), begin, end))
            predict[i] = [end - 1, *range(first, first + len(seen))]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "predict": torch.tensor([position for i in range(len(sequences)) for position in predict[i]]),
        "targets": torch.tensor([token for sequence in sequences for token in sequence.reply]),
        "owner": torch.tensor([i for i, sequence in enumerate(sequences) for _ in sequence.reply]),
        "reply_lengths": torch.tensor([len(sequence.reply) for sequence in sequences]),
        "spans": tuple(spans),
    }


def tokens_of(batch: dict[str, Any], sequences: Sequence[int]) -> Tensor:
    """Where the tokens of some sequences of one prompt lie in a batch, in the order in which `collate` puts these sequences
    alone."""
    predict = [batch["predict"][batch["owner"] == i] for i in sequences]  # the prompt's last token, the reply's all but its last
    end = int(predict[0][0]) + 1
    begin = next(begin for begin, stop, *_ in batch["spans"] if stop == end)
    return torch.cat([torch.arange(begin, end), *(positions[1:] for positions in predict)])


def reply_logprobs(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """As in `padded.py`: summed log-probability and entropy `(R,)` of the sequences' reply tokens.

    `batch["hidden"]` `(T, H)`, where given, stands for the lower layers, which `frozen.py` has taken off."""
    whole = without_adapter(model)
    whole.set_attn_implementation(attention.NAME)
    head = plain_head(whole)
    who, longest = attention.plan(batch["spans"], batch["position_ids"].device), attention.longest_row(batch["spans"])
    start = {"inputs_embeds": batch["hidden"][None]} if "hidden" in batch else {"input_ids": batch["input_ids"]}
    out = whole.base_model(**start, position_ids=batch["position_ids"], who=who, longest=longest, use_cache=False)
    hidden = out.last_hidden_state[0].index_select(0, batch["predict"])  # (N, H); plain indexing adds up gradients in any order
    logp, entropy = token_logprobs(hidden, head.weight, batch["targets"])
    return _by_reply(logp, batch["reply_lengths"]), _by_reply(entropy, batch["reply_lengths"])


def _by_reply(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums `(R,)` over each reply's tokens, of `(N,)` values that lie reply after reply, in a fixed order: `index_add` adds in
    any order on a GPU, and step 0 would be off by a sum's last bit."""
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def plain_head(model: Any) -> Any:
    """The layer that makes logits of hidden states; refuses one with a bias, which `token_logprobs` would leave out."""
    head = model.get_output_embeddings()
    if head.bias is not None:
        raise UserError("This model's head has a bias, which prefix-shared sequences do not compute. Use train.layout=padded.")
    return head


def check_model(directory: Path, longest: int) -> None:
    """Refuses models that these sequences would change, for sequences of up to `longest` tokens: a look at `config.json` alone."""
    if why := objection(causal(directory)[0], "shared_rows", longest=longest):
        raise UserError(f"train.layout=shared can't train the model in {directory}: {why}. Use train.layout=padded.")
