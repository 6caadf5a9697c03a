"""Checks of a foreign model directory: all files present, complete and readable, and none that asks for code to be run.

They take milliseconds and come before anything is loaded. A configuration can make a library run Python code from the directory
(`auto_map`, in hub models with custom code): that is always refused here.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from drift.errors import UserError

REMOVED = "removed.json"  # in a policy whose weights were removed to save disk: their names and sha256
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
POINTER = b"version https://git-lfs"
OWN_CODE = ("auto_map", "custom_pipelines", "custom_generate")  # keys that name Python files or classes
HARMLESS_LAYERS, HARMLESS_SIZE = 10_000, 10**8  # sizes up to these are always acceptable
MAX_JSON = 2**26  # bytes of a JSON file; the largest index has a few million
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of one number, by safetensors' names for the types of trainable weights
PACKED = {"I32": 4, "I16": 2, "I8": 1, "U32": 4, "U16": 2, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
COUNTS = {"I64": 8, "U64": 8, "BOOL": 1}  # positions and masks, which some models keep beside their weights
HOW_BACK = "To get them back, give the command of its run again with store.keep_policies=all: it trains that policy again."
Shapes = dict[str, tuple[str, tuple[int, ...]]]  # tensor's name -> (type, shape)


def check_model_files(directory: Path) -> None:
    """Refuses a directory that is not a complete Hugging Face model, that asks for custom code, or whose weights are already
    quantised."""
    for needed in ("config.json", "tokenizer_config.json"):
        if not (directory / needed).is_file():
            raise UserError(f"Model directory {directory} has no {needed}. Expected a Hugging Face model directory.")
    config = check_config(directory)
    held = all_tensors(directory)
    for name, (kind, shape) in held.items() if not is_quantised(config) else ():
        if kind in PACKED and len(shape) > 1 and not name.endswith("bias"):
            _refuse_quantised(directory, f"{name} is of type {kind}")
    _check_sizes(directory / "config.json", config, held)


def check_config(directory: Path) -> dict[str, Any]:
    """The content of `config.json`; refuses settings as `check_settings` does, and weights that another program has quantised."""
    if not (directory / "config.json").is_file():
        raise UserError(f"Model directory {directory} has no config.json. Expected a Hugging Face model directory.")
    check_settings(directory)
    config = read_object(directory / "config.json")
    quantised = is_quantised(config)
    kind = quantised.get("quant_method", "bitsandbytes") if isinstance(quantised, dict) else quantised
    if quantised and kind != "bitsandbytes":
        _refuse_quantised(directory, str(kind))
    return config


def is_quantised(config: dict[str, Any]) -> Any:
    """What the configuration says of the weights' quantisation, if anything."""
    return config.get("quantization_config") or config.get("compression_config")


def check_settings(directory: Path) -> None:
    """Refuses configuration and tokenizer files that are damaged, are Git LFS pointers, or ask for code."""
    for file in sorted(file for file in directory.iterdir() if file.is_file()):
        if file.suffix in (".json", ".jinja", ".model", ".txt", ".tiktoken"):
            refuse_pointer(file)
        if file.suffix != ".json" or not ("config" in file.name or file.name.endswith(("_map.json", "_tokens.json"))):
            continue
        asked = _code(read_object(file))
        if asked is not None:
            raise UserError(
                f"{file} asks for Python code to be run ({asked}), which this program never does. If transformers supports "
                "the model without it, remove that entry from the file; otherwise use another model."
            )


def _check_sizes(file: Path, config: dict[str, Any], held: Shapes) -> None:
    """Refuses sizes that do not match the weights, because allocating them could exhaust the memory."""
    numbers = sum(math.prod(shape) for _, shape in held.values())
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, value in part.items():
            counts = re.match("(n|num|max|encoder|decoder)_.*(layer|expert)", key)
            most = max(len(held), HARMLESS_LAYERS) if counts else max(numbers, HARMLESS_SIZE)
            if isinstance(value, int) and value > most and re.search("layer|expert|size|dim|heads|embd", key):
                raise UserError(
                    f"{file}: {key}={str(value)[:40]} does not match the weights, which are {len(held)} tensors with "
                    f"{numbers} numbers in total. Fetch or write both again."
                )


def _code(settings: Any) -> str | None:
    """The first entry, at any depth, that refers to code."""
    left = [settings]
    while left:
        here = left.pop()
        if isinstance(here, dict):
            if found := next((key for key in OWN_CODE if here.get(key)), None):
                return f"{found}: {str(here[found])[:100]}"
            left += here.values()
        elif isinstance(here, list):
            left += here
    return None


def _refuse_quantised(directory: Path, why: str) -> None:
    raise UserError(
        f"The weights in {directory} are already quantised ({why}), which this program does not read. Use the original model; "
        "train.adapter.quantization=nf4 quantises a policy when it is loaded."
    )


def all_tensors(directory: Path) -> Shapes:
    """All tensors of a full model, from the headers of its files."""
    shapes: Shapes = {}
    for file in weight_files(directory):
        shapes |= tensors(file)
    return shapes


def weight_files(directory: Path) -> list[Path]:
    """The weight files of a full model: all that the index lists, or the only one."""
    refuse_removed(directory)
    if (directory / INDEX).is_file():
        index = read_object(directory / INDEX).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise UserError(f"{directory / INDEX} has no weight_map. Fetch the file again.")
        names = sorted(set(map(str, index.values())))
        if outside := [name for name in names if Path(name).name != name]:
            raise UserError(f"{directory / INDEX} names {outside[0]}, which is not a file beside it. Fetch the file again.")
        if missing := [name for name in names if not (directory / name).is_file()]:
            raise UserError(f"Model directory {directory} lacks weights: {INDEX} lists {', '.join(missing)}. Fetch them again.")
        return [directory / name for name in names]
    if not (directory / SINGLE).is_file():
        raise UserError(
            f"Model directory {directory} has no {SINGLE} (other *.safetensors names and pickled weights are not read). "
            "Convert it once: load it with transformers, and write it with save_pretrained(NEW_DIR)."
        )
    return [directory / SINGLE]


def removed_weights(directory: Path) -> dict[str, str]:
    """The sha256 of the weight files of a policy that were removed to save disk (see store/retention.py), by name."""
    file = directory / REMOVED
    return {name: str(sha256) for name, sha256 in read_object(file).items() if Path(name).name == name} if file.is_file() else {}


def lacks_weights(directory: Path) -> bool:
    """Whether the weights of a policy were removed to save disk."""
    return any(not (directory / name).is_file() for name in removed_weights(directory))


def refuse_removed(directory: Path) -> None:
    if lacks_weights(directory):
        raise UserError(f"The weights of the policy in {directory} were removed to save disk. {HOW_BACK}")


def tensors(file: Path) -> Shapes:
    """The tensors in a safetensors file, from its header; refuses a damaged or truncated file."""
    refuse_pointer(file)
    size = file.stat().st_size
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(length) if 8 + length <= size else "")
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            found = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
            spans = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
            sound = all(_fits(*found[name], *entry["data_offsets"]) for name, entry in entries.items())
        except (ValueError, AttributeError, TypeError, KeyError, IndexError, RecursionError):
            sound, found, spans = False, {}, []
    ends = [0, *(end for _, end in spans)]
    if not sound or [begin for begin, _ in spans] != ends[:-1]:  # contiguous, without gaps
        raise UserError(f"{file} is not a safetensors file, or it is damaged. Fetch or write it again.")
    if 8 + length + ends[-1] != size:
        raise UserError(f"{file} is cut short or too long: {size} bytes do not match its header. Fetch or write it again.")
    return found


def _fits(kind: str, shape: tuple[int, ...], begin: int, end: int) -> bool:
    numbers = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    return numbers and math.prod(shape) * (BYTES | PACKED | COUNTS).get(kind, -1) == end - begin


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    refuse_pointer(file)
    if file.stat().st_size > MAX_JSON:
        raise UserError(f"{file} has {file.stat().st_size} bytes, too many for a settings file. Fetch or write it again.")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {error}. Fetch or write it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(found).__name__}.")
    return found


def refuse_pointer(file: Path) -> None:
    with open(file, "rb") as opened:
        if opened.read(len(POINTER)) == POINTER:
            raise UserError(f"{file} is a Git LFS pointer, not the file itself. Fetch it: git lfs pull.")
