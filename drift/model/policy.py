"""A policy is a directory: full weights, or an adapter together with the path of its base model.

If the base weights are quantised (QLoRA, arXiv 2305.14314), they are so everywhere: sampling and evaluation use the same model as
training. Sampler, trainer and evaluator each load the policy, use it and free it. Its fingerprint is a hash of the bytes that shape
its replies (weights, adapter, tokenizer and generation files, the template's arguments), so a copy elsewhere is the same policy.
"""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drift.errors import UserError, loading_advice
from drift.files import READ_ALWAYS, hash_file
from drift.model.adapter import BASE, CONFIG, WEIGHTS, base_of
from drift.model.files import REMOVED, read_object, refuse_removed, removed_weights, tensors
from drift.model.remembered import remembered
from drift.model.template import check_form, with_arguments
from drift.model.weights import refuse_mismatch
from drift.records import digest, write_json

Quantization = Literal["none", "nf4"]
# Every file that a tokenizer may consist of, by the names in transformers and in single model families.
TOKENIZER = ("*token*", "*vocab*", "merges.txt", "*.model", "*.tiktoken", "*.bpe", "*tekken*", "*.jinja", "*chat_template*/*")
SHAPES_REPLIES = ("*.safetensors", "*.json", *TOKENIZER)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`base`: the directory with the full weights; differs from `directory` for adapters. `quantization`: of the base's linear
    layers when loaded. `tokenizer`: the directory that it is read from. `template`: arguments for every rendering of the chat
    template."""

    directory: Path
    base: Path
    quantization: Quantization
    tokenizer: Path
    template: Mapping[str, Any]
    fingerprint: str

    @property
    def is_adapter(self) -> bool:
        return self.base != self.directory


def policy_at(directory: Path, quantization: Quantization = "none", template: Mapping[str, Any] | None = None) -> Policy:
    """The policy in a directory. An adapter's own statement about its base's quantisation takes precedence."""
    directory, template = directory.resolve(), template or {}
    if (directory / CONFIG).is_file():
        return _adapter_at(directory, quantization, template)
    hashed = [_hash_directory(directory, SHAPES_REPLIES), *([quantization] if quantization != "none" else [])]
    return Policy(
        directory=directory,
        base=directory,
        quantization=quantization,
        tokenizer=directory,
        template=template,
        fingerprint=digest([*hashed, template]),
    )


def _adapter_at(directory: Path, quantization: Quantization, template: Mapping[str, Any]) -> Policy:
    base = base_of(directory)
    below = policy_at(base.directory, base.quantization or quantization)
    if base.fingerprint not in (None, below.fingerprint):
        raise UserError(
            f"The base model {base.directory} is not what the adapter in {directory} was trained on: its files have changed since "
            f"(or another version of this program wrote {BASE}). Restore the model, or train again."
        )
    config = read_object(directory / CONFIG)
    config.pop("base_model_name_or_path")  # a location, not content
    own = (directory / "tokenizer_config.json").is_file()
    return Policy(
        directory=directory,
        base=below.base,
        quantization=below.quantization,
        tokenizer=directory if own else below.base,
        template=template,
        fingerprint=digest([
            below.fingerprint, _hash(directory / WEIGHTS), config, _hash_directory(directory, TOKENIZER), template
        ]),
    )  # fmt: skip


def load_tokenizer(policy: Policy) -> Any:
    """The policy's tokenizer, with the policy's arguments set at the top of its chat template."""
    tokenizer = _read_tokenizer(policy.tokenizer)
    if tokenizer.chat_template:
        check_form(tokenizer.chat_template, policy.tokenizer)
        tokenizer.chat_template = with_arguments(tokenizer.chat_template, policy.template, policy.tokenizer)
    return tokenizer


def _read_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the libraries raise a bare Exception for unreadable files
        why = " ".join(str(error).split())[:300]
        raise UserError(f"The tokenizer in {directory} can't be read (or the config.json beside it): {why}") from error
    if isinstance(tokenizer.chat_template, dict):  # several named templates: for tools, for retrieval
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    return tokenizer


@loading_advice()
def load_model(
    policy: Policy, dtype: Any, *, trainable: bool = False, merge: bool = False, on_host: bool = False
) -> Any:  # fmt: skip
    """The model, on the best device (`on_host`: on the CPU), in eval mode. An adapter is float32 and not merged, so that the
    reference pass and training compute the same numbers; `merge` (float32 weights only) adds it to the weights for faster sampling.
    Merging into bfloat16 or quantised weights would round small updates away."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    refuse_removed(policy.base)
    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() and not on_host else "cpu"
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # refused below, by name
    if device == "cuda":  # each tensor goes there at once, without a copy in the host's memory
        options["device_map"] = {"": f"cuda:{torch.cuda.current_device()}"}
    if policy.quantization == "nf4":
        options.setdefault("device_map", {"": device})
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    loaded: Any = AutoModelForCausalLM.from_pretrained(policy.base, **options)
    model, info = loaded
    shapes = sorted(name for name, *_ in info["mismatched_keys"])
    refuse_mismatch(
        policy.base, missing=sorted(info["missing_keys"]), unexpected=sorted(info["unexpected_keys"]), mismatched=shapes
    )
    if policy.quantization == "nf4":
        # bitsandbytes' CPU inference kernel rounds the scales to bfloat16: the reference pass would differ from training.
        for part in model.modules():
            if hasattr(part, "support_avx512bf16_for_cpu"):
                part.support_avx512bf16_for_cpu = False
    # The head gets a slice of the positions. If that is not contiguous, torch copies a frozen weight once per sequence.
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    if policy.is_adapter:
        from peft import PeftModel, get_peft_model_state_dict

        where = str(next(model.parameters()).device)  # peft's own choice is the first GPU, whatever this rank's is
        model = PeftModel.from_pretrained(model, str(policy.directory), is_trainable=trainable, torch_device=where)
        known, found = set(get_peft_model_state_dict(model, save_embedding_layers=False)), set(tensors(policy.directory / WEIGHTS))
        refuse_mismatch(policy.directory, missing=sorted(known - found), unexpected=sorted(found - known), mismatched=[])
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        if merge and dtype == torch.float32 and policy.quantization == "none":
            model = model.merge_and_unload()
    return model.to(device).eval()


def without_adapter(model: Any) -> Any:
    """The causal model itself, without the wrapper of an adapter (whose layers stay in place)."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def save_policy(model: Any, start: Policy, directory: Path, weights: Mapping[str, Any] | None = None) -> None:
    """Writes a trained model as a policy directory: an adapter or full weights, with the start model's tokenizer. `weights`: by
    name, where the model's own are divided among several devices."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(directory, **({} if weights is None else {"state_dict": dict(weights)}))
    _read_tokenizer(start.tokenizer).save_pretrained(directory)
    config = directory / CONFIG
    if config.is_file():
        settings = read_object(config)
        write_json(config, settings | {"target_modules": sorted(settings["target_modules"])})  # peft writes a set in random order
        (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card
        base = policy_at(start.base, start.quantization)
        described = {"directory": str(base.directory), "quantization": base.quantization, "fingerprint": base.fingerprint}
        write_json(directory / BASE, described)


def free() -> None:
    """Releases the memory of dropped models (call it after the last reference is gone)."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _hash_directory(directory: Path, patterns: Sequence[str]) -> str:
    files = {file for pattern in patterns for file in directory.glob(pattern) if file.is_file() and file.name != REMOVED}
    hashes = {directory / name: sha256 for name, sha256 in removed_weights(directory).items()}
    hashes |= {file: _hash(file) for file in files}
    return digest([[file.relative_to(directory).as_posix(), hashes[file]] for file in sorted(hashes)])


def _hash(file: Path) -> str:
    if file.stat().st_size <= READ_ALWAYS:
        return hash_file(file)
    return remembered("sha256", [file], lambda: hash_file(file))
