"""The files of a model directory: whole, readable, all there. Looked at before anything is loaded, in milliseconds."""

import json
from pathlib import Path
from typing import Any

from drift.errors import UserError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
POINTER = b"version https://git-lfs"


def check_model_files(directory: Path) -> None:
    """Refuses a directory that is no whole Hugging Face model, and weights that are quantised already."""
    for needed in ("config.json", "tokenizer_config.json"):
        if not (directory / needed).is_file():
            raise UserError(f"Model directory {directory} has no {needed}. Expected a Hugging Face model directory.")
        read_object(directory / needed)
    for file in [*directory.glob("*.model"), *directory.glob("tokenizer.json")]:
        _refuse_pointer(file)
    for optional in ("generation_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (directory / optional).is_file():  # transformers passes over a broken one without a word
            read_object(directory / optional)
    quantised = read_object(directory / "config.json").get("quantization_config") or {}
    if quantised.get("quant_method", "bitsandbytes") != "bitsandbytes":
        raise UserError(
            f"The weights in {directory} are quantised already ({quantised['quant_method']}), so they can't be trained. Use the "
            "original model; train.adapter.quantization=nf4 quantises it when it is loaded."
        )
    for file in weight_files(directory):
        tensor_names(file)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights of a full model: all that the index names, or the only one."""
    if (directory / INDEX).is_file():
        index = read_object(directory / INDEX).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise UserError(f"{directory / INDEX} has no weight_map. Fetch the file again.")
        names = sorted(set(map(str, index.values())))
        if missing := [name for name in names if not (directory / name).is_file()]:
            raise UserError(f"Model directory {directory} lacks weights: {INDEX} names {', '.join(missing)}. Fetch them again.")
        return [directory / name for name in names]
    if not (directory / SINGLE).is_file():
        raise UserError(
            f"Model directory {directory} has no {SINGLE} (other *.safetensors names and pickled weights are not read). "
            "Convert it once: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)."
        )
    return [directory / SINGLE]


def tensor_names(file: Path) -> list[str]:
    """The names in a safetensors file, from its header; refuses one that is damaged or cut short."""
    _refuse_pointer(file)
    size = file.stat().st_size
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(length) if 8 + length <= size else "")
            tensors = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, AttributeError, TypeError, KeyError, IndexError):
            raise UserError(f"{file} is no safetensors file, or a damaged one. Fetch or write it again.") from None
    if 8 + length + max(tensors.values(), default=0) != size:
        raise UserError(f"{file} is cut short or too long: {size} bytes do not fit its header. Fetch or write it again.")
    return sorted(tensors)


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    _refuse_pointer(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not readable as JSON: {error}. Fetch or write it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(found).__name__}.")
    return found


def _refuse_pointer(file: Path) -> None:
    with open(file, "rb") as opened:
        if opened.read(len(POINTER)) == POINTER:
            raise UserError(f"{file} is a Git LFS pointer, not the file itself. Fetch it: git lfs pull.")
