"""Which models the fast paths may run: one table of model types, and the properties that no fast path computes.

The fast paths leave a model's code untouched and give it an attention function of their own; norms of queries and keys, biases,
rotary embeddings (or none) and the order of norms are the model's business. What a type may run is what `tests/test_family.py` has
shown on a tiny random model of it, to 1e-5 in float32: log-probs and gradients against padded rows, logits against a plain forward
pass. A type that is not in the table takes the plain paths: padded rows, the padded cache.
"""

import re
from typing import Any, Literal

from drift.model.architecture import ATTENTION

# rows that share their prompt (score/shared.py); decoding without padding (sampler/cpu/bands.py); the outputs of frozen layers,
# kept while the layers themselves are taken off (train/frozen.py)
FastPath = Literal["shared_prompts", "banded_decoding", "frozen_layers"]

EVERY: frozenset[FastPath] = frozenset(("shared_prompts", "banded_decoding", "frozen_layers"))
PROVED: dict[str, frozenset[FastPath]] = {
    "llama": EVERY,
    "mistral": EVERY,
    "olmo2": EVERY,
    "olmo3": EVERY - {"frozen_layers"},  # looks up a layer's rotary embeddings by its place, which changes without the lower ones
    "phi3": EVERY,
    "qwen2": EVERY,
    "qwen3": EVERY,
    "smollm3": EVERY,
}

# Settings by which a model multiplies or caps its logits, embeddings, scores, ...: of a model's head rows that share their prompt
# know the weight alone, and kept outputs of frozen layers would be multiplied as embeddings are.
ARITHMETIC = re.compile(r"multiplier|soft_?cap|logits?_(scal|cap)")


def objection(config: Any, path: FastPath, *, longest: int) -> str | None:
    """Why a model can't take a fast path with rows of up to `longest` tokens; None: it can."""
    settings = config.get_text_config(decoder=True).to_dict()
    scaled = {name: value for name, value in sorted(settings.items()) if ARITHMETIC.search(name) and value not in (None, 1)}
    if scaled:
        return f"it scales or caps numbers on their way ({', '.join(f'{name}={value}' for name, value in scaled.items())})"
    kinds = set(map(str, settings.get("layer_types") or [])) - ATTENTION
    if kinds:
        return f"it has layers of the kind {', '.join(sorted(kinds))}"
    if path not in PROVED.get(config.model_type, frozenset()):
        known = ", ".join(kind for kind, paths in PROVED.items() if path in paths)
        return f"models of its type, {config.model_type}, are not known to give the same numbers (those that are: {known})"
    window = attention_window(settings)
    if window is not None and longest > window:
        return f"its attention has a window of {window} tokens, and rows may have {longest}"
    return None


def attention_window(settings: dict[str, Any]) -> int | None:
    """How many tokens back a layer of the model may see, itself included; None: all of them."""
    used = settings.get("use_sliding_window", True) or "sliding_attention" in (settings.get("layer_types") or [])
    return settings.get("sliding_window") if used else None
