"""Which causal models this program computes correctly, decided from `config.json` before any weight is loaded.

Sampling keeps only keys and values of the past: a model with another kind of memory (a convolution, a state space) is refused.
Rotary embeddings that change with the longest sequence of a batch would make the results depend on the neighbours, so sequences
must stay below the length at which they begin to change."""

from pathlib import Path
from typing import Any

from drift.errors import UserError

ATTENTION = {"full_attention", "sliding_attention"}


def check_architecture(directory: Path, tokenizer: Any, *, longest: int) -> None:
    """Refuses the model in a directory if it can't sample from, or be trained on, sequences of up to `longest` tokens."""
    config, kind = causal(directory)
    text = config.get_text_config(decoder=True)
    if memory := _memory(text, kind):
        raise UserError(
            f"The model in {directory} ({config.model_type}) can't be sampled from: it keeps its past in {memory}, "
            "not only in keys and values. Use a model with attention in every layer."
        )
    if (border := rope_border(text)) is not None and longest > border:
        raise UserError(
            f"The model in {directory} changes its rotary embeddings, for a whole batch, if a sequence has more than "
            f"{border} tokens, so replies and log-probabilities would depend on their neighbours. Sequences may have {longest} "
            "tokens here: keep train.max_tokens, and the sum of sampler.max_prompt_tokens and sampler.max_new_tokens, "
            f"at {border} or below."
        )
    check_vocabulary(directory, tokenizer, text.vocab_size)


def shares_beginnings(config: Any) -> bool:
    """Whether padding is allowed between a shared prefix of prompts and the rest: not if an attention window or bias counts cache
    slots instead of positions."""
    text = config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    windowed = getattr(text, "sliding_window", None) is not None and getattr(text, "use_sliding_window", True)
    return kinds == {"full_attention"} and not windowed and getattr(text, "rope_parameters", None) is not None


def causal(directory: Path) -> tuple[Any, Any]:
    """(config, class) of the model in a directory; raises UserError unless it is a causal language model."""
    from transformers import AutoModelForCausalLM

    return _kind(directory, AutoModelForCausalLM, "a causal language model")


def sequence_classification(directory: Path) -> tuple[Any, Any]:
    """(config, class) of the model in a directory; raises UserError unless its weights have a head for sequence classification."""
    from transformers import AutoModelForSequenceClassification

    config, kind = _kind(directory, AutoModelForSequenceClassification, "available for sequence classification")
    if kind.__name__ not in (config.architectures or [kind.__name__]):
        raise UserError(
            f"The model in {directory} is a {config.architectures[0]}, not a {kind.__name__}: it has no head that scores a "
            "conversation. Use a reward model: a model for sequence classification, trained on preferences."
        )
    return config, kind


def config_of(directory: Path) -> Any:
    """The configuration of a model, as transformers reads it (the model's own code is not imported, which takes seconds)."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        config.get_text_config(decoder=True)
    except Exception as error:  # every configuration class raises its own errors for bad values
        raise UserError(f"{directory / 'config.json'} can't be used: {' '.join(str(error).split())[:300]}") from error
    return config


def _kind(directory: Path, auto: Any, expected: str) -> tuple[Any, Any]:
    """(config, class) of the model in a directory. `auto`: a class of transformers that chooses among models of one kind."""
    config = config_of(directory)
    kind = auto._model_mapping.get(type(config), None)
    kind = kind[0] if isinstance(kind, tuple) else kind
    if kind is None:
        raise UserError(f"The model in {directory} is of type {config.model_type}, which is not {expected}.")
    return config, kind


def _memory(config: Any, kind: Any) -> str | None:
    """What the model remembers besides keys and values; None: nothing."""
    other = sorted(set(map(str, getattr(config, "layer_types", None) or [])) - ATTENTION)
    if other:
        return f"layers of the kind {', '.join(other)}"
    if kind._is_stateful:
        return "a state"
    return "keys and values that several layers share" if getattr(config, "num_kv_shared_layers", None) else None


def rope_border(config: Any) -> int | None:
    """The number of tokens in a sequence beyond which rotary embeddings change; None: they never do."""
    rope = getattr(config, "rope_parameters", None) or {}
    borders = []
    for settings in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        kind = str(settings.get("rope_type", settings.get("type", "")))
        if "dynamic" in kind or kind == "longrope":
            name = "original_max_position_embeddings"
            original = settings.get(name) or getattr(config, name, None)
            borders.append(min(int(original or config.max_position_embeddings), config.max_position_embeddings))
    return min(borders, default=None)


def check_vocabulary(directory: Path, tokenizer: Any, size: int) -> None:
    """Refuses a tokenizer with tokens beyond the model's vocabulary, except unused control tokens (one for images, for example)."""
    special = set(tokenizer.all_special_ids) | {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = {
        token for token, i in tokenizer.get_vocab().items() if i >= size and (i not in special or i == tokenizer.pad_token_id)
    }
    if beyond:
        raise UserError(
            f"The tokenizer in {directory} has tokens that the model does not have ({', '.join(sorted(beyond)[:3])}): the "
            f"model's vocabulary has {size} tokens. Use the tokenizer that belongs to the model."
        )
