"""A policy is a directory: full weights, or an adapter and the name of the base directory that it belongs to.

Where the weights under an adapter are quantised (QLoRA, arXiv 2305.14314), they are so for everybody: sampling and evaluation
see the model that is trained. Sampler, trainer and evaluator each load it, use it and free it. Its fingerprint is a hash of the
bytes that shape its replies (weights, adapter, tokenizer, chat template, generation config), so a copy elsewhere is the same
policy.
"""

import gc
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from drift.records import digest, write_json

ADAPTER, BASE = "adapter_model.safetensors", "base.json"
Quantization = Literal["none", "nf4"]
SHAPES_REPLIES = ("*.safetensors", "*config.json", "tokenizer.json", "*.jinja", "vocab.json", "merges.txt")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`base`: the directory whose full weights (and tokenizer) are used; differs from `directory` for adapters. `quantization`: of
    the base's linear layers when they are loaded."""

    directory: Path
    base: Path
    quantization: Quantization
    fingerprint: str

    @property
    def is_adapter(self) -> bool:
        return self.base != self.directory


def policy_at(directory: Path, quantization: Quantization = "none") -> Policy:
    """The policy in a directory. An adapter's directory says itself how its base is quantised."""
    directory = directory.resolve()
    if not (directory / BASE).is_file():
        fingerprint = _hash_directory(directory)
        if quantization != "none":
            fingerprint = digest([fingerprint, quantization])
        return Policy(directory=directory, base=directory, quantization=quantization, fingerprint=fingerprint)
    base = json.loads((directory / BASE).read_text(encoding="utf-8"))
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    config.pop("base_model_name_or_path")  # a place, not a content
    return Policy(
        directory=directory,
        base=Path(base["directory"]),
        quantization=base["quantization"],
        fingerprint=digest([base["fingerprint"], hash_file(directory / ADAPTER), config]),
    )


def load_tokenizer(policy: Policy) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(policy.base, local_files_only=True)


def load_model(policy: Policy, dtype: Any, *, trainable: bool = False, merge: bool = False) -> Any:
    """The model, on the best device, in eval mode. An adapter is float32 and stays apart, so that a reference pass and the
    training after it compute the same numbers; `merge` (float32 weights only) adds it to the weights, for faster sampling.
    Merging into bfloat16 or quantised weights would round small updates away."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    how: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
    if policy.quantization == "nf4":
        how["device_map"] = {"": device}
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    model: Any = AutoModelForCausalLM.from_pretrained(policy.base, **how)
    if policy.quantization == "nf4":
        # bitsandbytes' CPU kernel for inference rounds the scales to bfloat16: a reference pass would not be the training's model.
        for part in model.modules():
            if hasattr(part, "support_avx512bf16_for_cpu"):
                part.support_avx512bf16_for_cpu = False
    # The head gets a slice of the positions. Of a frozen weight torch makes a copy a row where that slice is not contiguous.
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    if policy.is_adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(policy.directory), is_trainable=trainable)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        if merge and dtype == torch.float32 and policy.quantization == "none":
            model = model.merge_and_unload()
    return model.to(device).eval()


def without_adapter(model: Any) -> Any:
    """The causal model itself, whose layers an adapter (if there is one) has changed in place."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def save_policy(model: Any, tokenizer: Any, start: Policy, directory: Path) -> None:
    """Writes a trained model as a policy directory, adapter or full weights according to what it is."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(directory)
    config = directory / "adapter_config.json"
    if config.is_file():
        settings = json.loads(config.read_text(encoding="utf-8"))
        write_json(config, settings | {"target_modules": sorted(settings["target_modules"])})  # peft writes a set as it comes
        (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card
        base = start if not start.is_adapter else policy_at(start.base, start.quantization)
        described = {"directory": str(base.directory), "quantization": base.quantization, "fingerprint": base.fingerprint}
        write_json(directory / BASE, described)
    else:
        tokenizer.save_pretrained(directory)


def free() -> None:
    """Gives the memory of dropped models back (call after the last reference is gone)."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _hash_directory(directory: Path) -> str:
    files = sorted({file for pattern in SHAPES_REPLIES for file in directory.glob(pattern)})
    return digest([[file.name, hash_file(file)] for file in files])


def hash_file(file: Path) -> str:
    """sha256 of a file, remembered while size and time stay the same."""
    status = file.stat()
    return _hash_bytes(file, status.st_size, status.st_mtime_ns)


@cache
def _hash_bytes(file: Path, size: int, modified: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
