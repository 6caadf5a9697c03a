"""The prefix-shared layout, without padding (after arXiv 2410.20305): a prompt is computed once, and each of its replies attends
to it and to itself, never to another reply. Only positions that predict a reply token reach the vocabulary.

All sequences of a batch stand one after another in a tensor `(1, T)`; `attention.py` decides which token attends to which. The
model's code is unchanged: it gets position ids, and an attention function registered under a name of its own.

A reply's last token predicts nothing, and no token attends to it: it is only a target.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drift.errors import UserError
from drift.model.architecture import config_of
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
    """T tokens for R sequences with N reply tokens: input_ids, position_ids `(1, T)`; predict `(N,)`, the positions that predict
    the reply tokens targets `(N,)` of the sequences owner `(N,)`; reply_lengths `(R,)`; spans, see attention.py."""
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
            first, inputs = len(ids), sequences[i].reply[:-1]
            ids += inputs
            positions += range(len(prompt), len(prompt) + len(inputs))
            spans.append((first, first + len(inputs), begin, end))
            predict[i] = [end - 1, *range(first, first + len(inputs))]
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
    """The positions of some sequences of one prompt in a batch, in the order in which `collate` would put these sequences
    alone."""
    predict = [batch["predict"][batch["owner"] == i] for i in sequences]  # the prompt's last token, the reply's all but its last
    end = int(predict[0][0]) + 1
    begin = next(begin for begin, stop, *_ in batch["spans"] if stop == end)
    return torch.cat([torch.arange(begin, end), *(positions[1:] for positions in predict)])


def reply_logprobs(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """As in `padded.py`: summed log-probability and entropy `(R,)` of the sequences' reply tokens, log-probability of each `(N,)`.

    `batch["hidden"]` `(T, H)`, where given, are the outputs of the lower layers, which `train/frozen.py` has removed."""
    plain = without_adapter(model)
    plain.set_attn_implementation(attention.registered())
    head = plain_head(plain)
    device, spans = batch["position_ids"].device, batch["spans"]
    visible, longest = attention.visibility(spans, device), attention.longest_sequence(spans)
    start = {"inputs_embeds": batch["hidden"][None]} if "hidden" in batch else {"input_ids": batch["input_ids"]}
    out = plain.base_model(**start, position_ids=batch["position_ids"], visible=visible, longest=longest, use_cache=False)
    hidden = out.last_hidden_state[0].index_select(0, batch["predict"])  # (N, H); plain indexing adds up gradients in any order
    logp, entropy = token_logprobs(hidden, head.weight, batch["targets"])
    return by_reply(logp, batch["reply_lengths"]), by_reply(entropy, batch["reply_lengths"]), logp


def by_reply(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums `(R,)` over each reply's tokens, of `(N,)` values that stand reply after reply. The order is fixed: on a GPU `index_add`
    adds in any order, and the loss of step 0 would be off by the last bit of a sum."""
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def plain_head(model: Any) -> Any:
    """The layer that turns hidden states into logits; refuses one with a bias, which `token_logprobs` would ignore."""
    head = model.get_output_embeddings()
    if head.bias is not None:
        raise UserError("This model's head has a bias, which the prefix-shared layout does not support. Use train.layout=padded.")
    return head


def check_model(directory: Path, longest: int) -> None:
    """Refuses a model that this layout computes wrongly for sequences of up to `longest` tokens, by its `config.json` alone."""
    if reason := objection(config_of(directory), "shared_prompts", longest=longest):
        raise UserError(f"train.layout=shared can't train the model in {directory}: {reason}. Use train.layout=padded.")
