"""Adapter directories and their base model, named in `base.json` for our own adapters and in `adapter_config.json` for others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.model.files import check_settings, read_object, tensors

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"


@dataclass(frozen=True, kw_only=True)
class Base:
    """An adapter's base model: its directory; its quantisation and fingerprint, if the adapter states them."""

    directory: Path
    quantization: Any
    fingerprint: str | None


def base_of(adapter: Path) -> Base:
    """The base of an adapter; raises UserError if it is missing."""
    own = adapter / BASE
    if own.is_file():
        content = read_object(own)
        place, found = str(content["directory"]), Path(content["directory"])
        quantization, fingerprint = content["quantization"], content["fingerprint"]
    else:
        content = read_object(adapter / CONFIG)
        place, found = str(content.get("base_model_name_or_path")), _find(adapter, content)
        quantization = fingerprint = None
    if found is None or not found.is_dir():
        file, key = (own, "directory") if own.is_file() else (adapter / CONFIG, "base_model_name_or_path")
        raise UserError(
            f"The adapter in {adapter} belongs to the base model {place}, which is missing. Put it there, or write its new "
            f"absolute path into {file} ({key})."
        )
    return Base(directory=found.resolve(), quantization=quantization, fingerprint=fingerprint)


def _find(adapter: Path, config: dict[str, Any]) -> Path | None:
    """The directory that `base_model_name_or_path` refers to: an absolute or relative path, or a hub id in the cache."""
    place = config.get("base_model_name_or_path")
    if not isinstance(place, str) or not place:
        return None
    if Path(place).is_dir() or place.count("/") != 1 or place.startswith((".", "/", "~")):
        return Path(place)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(place, "config.json", revision=config.get("revision"))
    return Path(found).parent if isinstance(found, str) else None


def check_adapter(adapter: Path) -> None:
    """Refuses an adapter that is not plain LoRA on the layers: sampling and training agree only for that."""
    if not (adapter / WEIGHTS).is_file():
        raise UserError(f"The adapter in {adapter} has no {WEIGHTS}. Save it again with safe_serialization (peft's default).")
    check_settings(adapter)
    config = read_object(adapter / CONFIG)
    kind = config.get("peft_type")
    outside = [name for name in tensors(adapter / WEIGHTS) if ".layers." not in name and ".h." not in name]
    if kind != "LORA" or config.get("modules_to_save") or config.get("trainable_token_indices") or outside:
        why = f"its type is {kind}" if kind != "LORA" else f"it changes {(outside or ['whole modules or tokens'])[0]}"
        raise UserError(
            f"The adapter in {adapter} is not plain LoRA on the model's layers: {why}. Merge it into its base and use that: "
            "AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(NEW_DIR) and the tokenizer beside it."
        )
