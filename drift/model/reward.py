"""Reward models: models for sequence classification that score a whole conversation, rendered by their own chat template.

The head has one output, the score itself (Bradley-Terry, arXiv 2203.02155), or one for each of several classes or qualities, of
which one is chosen by its label. The score is what the model's own `forward` gives for the last token that is no padding.
Sequences are padded on the right with a token that the model does not count, so a score does not depend on its neighbours.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drift.batches import cut
from drift.errors import UserError, loading_advice, memory_advice, nearest
from drift.model.adapter import CONFIG
from drift.model.architecture import check_vocabulary, rope_border, sequence_classification
from drift.model.chat import conversation_ids
from drift.model.control import PROBE, PROBES
from drift.model.files import check_model_files
from drift.model.policy import Policy, free, load_tokenizer, policy_at
from drift.model.template import NotAPrefix
from drift.model.weights import check_weights, refuse_mismatch
from drift.records import Prompt

Output = Literal["log_probability", "logit"]


@dataclass(frozen=True)
class Head:
    """How a score is read from the outputs: the one at `column`, or its log-probability among `classes` that exclude one another
    (or, if they don't, on its own)."""

    column: int
    classes: Literal["none", "exclusive", "independent"]

    def scores(self, logits: Any) -> list[float]:
        """The scores of a batch. `logits`: (B, outputs)."""
        import torch

        logits = logits.float()
        if self.classes == "exclusive":
            logits = torch.log_softmax(logits, dim=-1)
        elif self.classes == "independent":
            logits = torch.nn.functional.logsigmoid(logits)
        return logits[:, self.column].tolist()


def head_of(directory: Path, positive: str | None, output: Output, setting: str) -> Head:
    """The head of the model in a directory; raises UserError where the settings, which stand under `setting`, do not fit it."""
    config, _ = sequence_classification(directory)
    if config.num_labels == 1:
        if positive is not None:
            raise UserError(
                f"{setting}.positive={positive}: the reward model in {directory} has one output. Set {setting}.positive=null."
            )
        return Head(0, "none")
    labels = {str(label): column for column, label in config.id2label.items()}
    if positive not in labels:
        given = f"{setting}.positive={'null' if positive is None else positive}"
        hint = "" if positive is None else nearest(positive, labels)
        raise UserError(
            f"{given}: the reward model in {directory} has {config.num_labels} outputs ({', '.join(sorted(labels)[:8])}), so "
            f"one of them must be chosen by its label, that of good replies.{hint}"
        )
    if config.problem_type == "regression" and output != "logit":
        raise UserError(
            f"{setting}.output={output}: the outputs of the model in {directory} are scores, not classes. Set "
            f"{setting}.output=logit."
        )
    independent = config.problem_type == "multi_label_classification"
    return Head(labels[positive], "none" if output == "logit" else "independent" if independent else "exclusive")


def check_reward_model(directory: Path) -> None:
    """Refuses a directory that is not a complete reward model with a chat template, before any weight is loaded."""
    if (directory / CONFIG).is_file():
        raise UserError(f"{directory} is an adapter. A reward model must be complete: merge it into its base model first.")
    check_model_files(directory)
    config, _ = sequence_classification(directory)
    if getattr(config, "quantization_config", None):
        raise UserError(f"The weights in {directory} are already quantised, which a judge does not read. Use the original model.")
    tokenizer = load_tokenizer(policy_at(directory))
    if not tokenizer.chat_template:
        raise UserError(
            f"The reward model in {directory} has no chat template, so it can't be shown a conversation as in its training. Use "
            "another, or add the template that it was trained with as chat_template.jinja."
        )
    try:
        conversation_ids(tokenizer, [*PROBES["one turn"], {"role": "assistant", "content": PROBE}])
    except NotAPrefix as error:
        raise UserError(f"The chat template of the reward model in {directory} can't show it a conversation: {error}.") from error
    check_vocabulary(directory, tokenizer, config.get_text_config(decoder=True).vocab_size)
    check_weights(directory, sequence_classification)


def most_tokens(directory: Path, tokenizer: Any) -> int:
    """The longest conversation that the model reads as in its training."""
    config, _ = sequence_classification(directory)
    text = config.get_text_config(decoder=True)
    limits = (getattr(text, "max_position_embeddings", None), tokenizer.model_max_length, rope_border(text))
    return min(int(limit) for limit in limits if limit is not None)


def tokens_of(tokenizer: Any, prompt: Prompt, reply: str, most: int) -> list[int] | None:
    """Token ids of a prompt with a reply; None: more than `most`, or the template can't render them."""
    try:
        ids = conversation_ids(tokenizer, [*prompt, {"role": "assistant", "content": reply}])
    except NotAPrefix:
        return None
    return ids if 0 < len(ids) <= most else None


@contextmanager
def open_reward_model(
    model: Policy, head: Head, dtype: Any, tokens_per_batch: int, setting: str
) -> Iterator[Callable[..., list[float]]]:
    """Loads the model; yields `scores(sequences of token ids) -> their scores`; frees it."""
    import torch

    loaded = [_load(model.directory, dtype)]

    def scores(sequences: Sequence[list[int]]) -> list[float]:
        found = [0.0] * len(sequences)
        by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for batch in cut(by_length, [len(sequences[i]) for i in by_length], tokens_per_batch):
            with memory_advice(f"{setting}.tokens_per_batch", tokens_per_batch), torch.inference_mode():
                logits = _logits(loaded[0], [sequences[i] for i in batch])
            for i, score in zip(batch, head.scores(logits), strict=True):
                found[i] = score
        return found

    try:
        yield scores
    finally:
        loaded.clear()
        free()


@loading_advice()
def _load(directory: Path, dtype: Any) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # refused below, by name
    loaded: Any = AutoModelForSequenceClassification.from_pretrained(directory, **options)
    model, info = loaded
    shapes = sorted(name for name, *_ in info["mismatched_keys"])
    refuse_mismatch(directory, missing=sorted(info["missing_keys"]), unexpected=sorted(info["unexpected_keys"]), mismatched=shapes)
    model.config.get_text_config(decoder=True).use_cache = False
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _logits(model: Any, sequences: list[list[int]]) -> Any:
    """(B, outputs). A model without a padding token reads the last token, whatever it is: the padding is then one that no sequence
    of the batch has."""
    import torch

    text = model.config.get_text_config()
    own, width = text.pad_token_id, max(map(len, sequences))
    used = {token for ids in sequences for token in ids}
    pad = own if own is not None else next(token for token in range(text.vocab_size) if token not in used)
    rows = [[*ids, *[pad] * (width - len(ids))] for ids in sequences]  # (B, T)
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences]
    text.pad_token_id = pad
    try:
        inputs = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}
        return model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits
    finally:
        text.pad_token_id = own
