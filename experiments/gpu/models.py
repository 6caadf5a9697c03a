"""Models of the real shapes with random weights, made on the device and never written to disk; and pairs of real lengths."""

import json
import random
import string
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT))
sys.path.append(str(ROOT / "experiments/speed"))

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # dense bfloat16, by the makers' data sheets
SHAPES = {  # hidden, layers, heads, key/value heads, intermediate, vocabulary, tied: the config.json of Qwen2.5-…-Instruct
    "0.5b": (896, 24, 14, 2, 4864, 151936, True),
    "7b": (3584, 28, 28, 4, 18944, 152064, False),
    "14b": (5120, 48, 40, 8, 13824, 152064, False),
    "tiny": (64, 2, 4, 2, 128, 1000, True),
}


@cache
def tokenizer() -> Any:
    """The tiny model's: a byte a token, ChatML."""
    from transformers import AutoTokenizer

    from drift.model.tiny import Tiny

    with tempfile.TemporaryDirectory() as cache:
        tiny = Tiny(layers=1, hidden_size=8, weights_seed=0, cache_dir=cache, template={})
        return AutoTokenizer.from_pretrained(tiny.directory())


def config_of(size: str) -> Any:
    from transformers import Qwen2Config

    hidden, layers, heads, kv_heads, intermediate, vocabulary, tied = SHAPES[size]
    end = tokenizer().eos_token_id
    return Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=4096,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=None,
    )


def random_model(size: str, dtype: torch.dtype) -> Any:
    """A Qwen2 model of this size in eval mode, as one that was loaded."""
    from transformers import Qwen2ForCausalLM

    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(DEVICE):
            torch.manual_seed(0)
            return Qwen2ForCausalLM(config_of(size)).eval()
    finally:
        torch.set_default_dtype(default)


def quantised(model: Any) -> Any:
    """The model with four bits a weight in the matrices of its layers, as `train=qlora` loads one."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    kind = {"compress_statistics": True, "quant_type": "nf4"}
    for name, part in list(model.named_modules()):
        if isinstance(part, torch.nn.Linear) and name != "lm_head":
            dtype, biased = part.weight.dtype, part.bias is not None
            new = Linear4bit(part.in_features, part.out_features, biased, compute_dtype=dtype, **kind, device="meta")
            new.weight = Params4bit(part.weight.data, requires_grad=False, module=new, **kind).to(DEVICE)
            new.bias = part.bias
            new.support_avx512bf16_for_cpu = False  # as in drift/model/policy.py
            model.set_submodule(name, new)
    model.is_loaded_in_4bit = True  # peft asks
    return model.eval()


def random_pairs(count: int, shrink: int) -> list[dict[str, str]]:
    """Prompt, chosen and rejected of random letters, as many tokens long as real ShareGPT pairs (`speed/lengths.json`; less
    what the chat template adds to a prompt)."""
    lengths = json.loads((ROOT / "experiments/speed/lengths.json").read_text())[:count]
    message = [{"role": "user", "content": ""}]
    added = len(tokenizer().apply_chat_template(message, tokenize=False, add_generation_prompt=True))
    rng = random.Random(0)

    def text(tokens: int) -> str:
        return "".join(rng.choices(string.ascii_lowercase, k=max(1, tokens // shrink)))

    return [
        {"prompt": text(prompt - added), "chosen": text(chosen), "rejected": text(rejected)} for prompt, chosen, rejected in lengths
    ]


def synchronized_clock() -> float:
    import time

    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def peak_tflops() -> float | None:
    """The card's dense bfloat16 rate by its data sheet; None for one that is not listed, and for a CPU."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    return next((rate for card, rate in PEAK_TFLOPS.items() if card in name), None)


def reset_peak() -> None:
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else float("nan")
