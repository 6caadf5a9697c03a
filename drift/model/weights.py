"""Whether the weights in a directory are those that its configuration asks for: by name and shape, before anything is loaded.

transformers itself says so: it loads tensors without content, of the shapes in the files' headers, into a model without content.
That takes a tenth of a second for 135 million parameters, a third for 14 billion.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.model.adapter import CONFIG, WEIGHTS, base_of
from drift.model.architecture import causal
from drift.model.files import held_in, tensors


def check_weights(directory: Path) -> None:
    """Refuses a model, or an adapter and its base, with weights that are missing, not known to the model or of another shape."""
    is_adapter = (directory / CONFIG).is_file()
    model = _hollow(base_of(directory).directory if is_adapter else directory)
    if is_adapter and model is not None:
        _check_adapter(model, directory)


def _hollow(directory: Path) -> Any:
    """The model without content; None where its weights are packed, in a way that only their loading can tell."""
    import torch
    from transformers.utils import logging

    config, kind = causal(directory)
    if getattr(config, "quantization_config", None):
        return None
    logging.disable_progress_bar()
    state = {name: torch.empty(shape, device="meta") for name, (_, shape) in held_in(directory).items()}
    how = {"output_loading_info": True, "ignore_mismatched_sizes": True, "device_map": {"": "meta"}}
    try:
        model, info = kind.from_pretrained(None, config=config, state_dict=state, **how)
    except Exception as error:  # layers have errors of their own for sizes that can't be, or don't fit together
        why = " ".join(str(error).split())[:300]
        raise UserError(f"The weights in {directory} do not fit its config.json, or that can't be used: {why}") from error
    shapes = sorted(name for name, *_ in info["mismatched_keys"])
    refuse_unlike(directory, missing=sorted(info["missing_keys"]), unexpected=sorted(info["unexpected_keys"]), mismatched=shapes)
    return model


def _check_adapter(model: Any, directory: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict

    try:
        adapted = PeftModel(model, LoraConfig.from_pretrained(str(directory)))
    except Exception as error:  # as above
        raise UserError(f"{directory / CONFIG} can't be used: {' '.join(str(error).split())[:300]}") from error
    known = _shapes(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    found = {name: shape for name, (_, shape) in tensors(directory / WEIGHTS).items()}
    other = sorted(name for name in known.keys() & found.keys() if known[name] != found[name])
    missing, unexpected = sorted(known.keys() - found.keys()), sorted(found.keys() - known.keys())
    refuse_unlike(directory, missing=missing, unexpected=unexpected, mismatched=other)


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def refuse_unlike(directory: Path, *, missing: Sequence[str], unexpected: Sequence[str], mismatched: Sequence[str]) -> None:
    """Refuses weights that are not the model's: transformers would draw what is missing at random and drop what it doesn't know."""
    wrong = {"missing": missing, "not known to the model": unexpected, "of another shape": mismatched}
    if any(wrong.values()):
        said = "; ".join(f"{kind}: {', '.join(names[:4])}{', ...' * (len(names) > 4)}" for kind, names in wrong.items() if names)
        raise UserError(f"The weights in {directory} do not fit its configuration. {said}. Fetch or write both again.")
