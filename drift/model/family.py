"""Which models may use the fast paths: a table of model types, and the properties that rule a fast path out.

The fast paths leave a model's code untouched and replace its attention function; norms of queries and keys, biases, rotary
embeddings (or none) and the order of norms stay the model's own. A type may use what `tests/test_family.py` has verified on a tiny
random model of it, to 1e-5 in float32: log-probabilities and gradients against padded sequences, logits against a plain forward
pass. A type that is not in the table uses the plain paths: padded sequences, the padded cache."""

import re
from typing import Any, Literal

from drift.model.architecture import ATTENTION

# sequences that share their prompt (score/shared.py); decoding without padding (sampler/cpu/bands.py); outputs of frozen layers,
# kept while the layers themselves are taken off (train/frozen.py)
FastPath = Literal["shared_prompts", "banded_decoding", "frozen_layers"]

EVERY: frozenset[FastPath] = frozenset(("shared_prompts", "banded_decoding", "frozen_layers"))
PROVED: dict[str, frozenset[FastPath]] = {
    "llama": EVERY,
    "mistral": EVERY,
    "olmo2": EVERY,
    "olmo3": EVERY - {"frozen_layers"},  # rotary embeddings depend on the layer's index, which changes without the lower layers
    "phi3": EVERY,
    "qwen2": EVERY,
    "qwen3": EVERY,
    "smollm3": EVERY,
}

# Settings by which a model multiplies or caps its logits, embeddings, scores, ...: the shared-prompt path applies only the
# head's weight, and the outputs kept from frozen layers would be multiplied like embeddings.
ARITHMETIC = re.compile(r"multiplier|soft_?cap|logits?_(scal|cap)")


def objection(config: Any, path: FastPath, *, longest: int) -> str | None:
    """Why a model can't use a fast path with sequences of up to `longest` tokens; None: it can."""
    settings = config.get_text_config(decoder=True).to_dict()
    scaled = {name: value for name, value in sorted(settings.items()) if ARITHMETIC.search(name) and value not in (None, 1)}
    if scaled:
        return f"it scales or caps intermediate numbers ({', '.join(f'{name}={value}' for name, value in scaled.items())})"
    kinds = set(map(str, settings.get("layer_types") or [])) - ATTENTION
    if kinds:
        return f"it has layers of the kind {', '.join(sorted(kinds))}"
    if path not in PROVED.get(config.model_type, frozenset()):
        known = ", ".join(kind for kind, paths in PROVED.items() if path in paths)
        return f"models of its type, {config.model_type}, are not verified to give the same numbers (verified: {known})"
    window = attention_window(settings)
    if window is not None and longest > window:
        return f"its attention has a window of {window} tokens, and sequences may have {longest}"
    return None


def attention_window(settings: dict[str, Any]) -> int | None:
    """How many tokens a layer's attention covers, the current one included; None: all of them."""
    used = settings.get("use_sliding_window", True) or "sliding_attention" in (settings.get("layer_types") or [])
    return settings.get("sliding_window") if used else None
