"""The training comparison on one GPU, with random weights of the real architectures: nothing is downloaded.

    python experiments/speed/gpu.py [--cases 0.5b-full 7b-lora …]
    python experiments/speed/gpu.py --tiny          the same end to end with tiny shapes, on a CPU

Pairs are random text of the lengths (tokens of prompt, chosen, rejected) in `lengths.json`, which are those of real ShareGPT
conversations; speed does not depend on the words. MFU: arithmetic that the pairs need (`arithmetic.py`) over the seconds and the
card's dense bfloat16 rate.
"""

import argparse
import json
import random
import statistics
import string
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import compare

HERE = Path(__file__).resolve().parent
QWEN = {"0.5b": (896, 24, 14, 2, 4864, 151936, True), "7b": (3584, 28, 28, 4, 18944, 152064, False),
        "14b": (5120, 48, 40, 8, 13824, 152064, False), "tiny": (32, 2, 4, 2, 64, 1000, True)}  # fmt: skip
CASES = {
    "0.5b-full": (),
    "7b-lora": ("adapter", "checkpointing"),
    "7b-full": ("slim", "checkpointing"),
    "14b-lora": ("adapter", "checkpointing"),
    "14b-qlora": ("adapter", "slim", "checkpointing"),
}  # slim: see training.py
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
PEERS = ["batch=4,sorted=0,precomputed=0", "batch=4,sorted=1,precomputed=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--pairs-per-step", type=int, default=32)
    parser.add_argument("--tokens-per-batch", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    for case in arguments.cases:
        size = "tiny" if arguments.tiny else case.split("-")[0]
        print(f"\n{case}{' (tiny shapes)' if arguments.tiny else ''}")
        with tempfile.TemporaryDirectory() as folder:
            model, pairs = Path(folder) / "model", Path(folder) / "pairs.json"
            write_model(model, *QWEN[size])
            lengths = json.loads((HERE / "lengths.json").read_text())[: arguments.pairs]
            shrink = 10 if arguments.tiny else 1
            pairs.write_text(json.dumps([random_pair(i, *(max(2, n // shrink) for n in row)) for i, row in enumerate(lengths)]))
            common: dict[str, Any] = {
                "model": str(model), "pairs": str(pairs), "precision": "bfloat16",
                "tokens_per_batch": arguments.tokens_per_batch, "pairs_per_step": arguments.pairs_per_step,
            } | {name: name in CASES[case] for name in ("adapter", "slim", "checkpointing")}  # fmt: skip
            found = compare(str(HERE / "training.py"), common, ["ours", *PEERS], arguments.repeats, "pairs")
            for side, runs in found.items():
                describe(side, statistics.median(run["flop"] / run["seconds"] for run in runs))


def describe(side: str, rate: float) -> None:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    peak = next((tflops for card, tflops in PEAK_TFLOPS.items() if card in name), None)
    share = f", MFU {rate / 1e12 / peak:.1%}" if peak else ""
    print(f"{side}: {rate / 1e12:.3g} useful TFLOP/s{share} ({name})")


def write_model(
    directory: Path, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int, tied: bool
) -> None:
    """A Qwen2 model of random bfloat16 weights with the tiny model's tokenizer (a byte a token)."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from drift.model.tiny import Tiny

    with tempfile.TemporaryDirectory() as cache:
        tiny = Tiny(layers=1, hidden_size=8, weights_seed=0, cache_dir=cache, template={}).directory()
        tokenizer = AutoTokenizer.from_pretrained(tiny)
    config = Qwen2Config(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=intermediate, vocab_size=vocabulary, tie_word_embeddings=tied, max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = Qwen2ForCausalLM(config)
        finally:
            torch.set_default_dtype(default)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def random_pair(seed: int, prompt: int, chosen: int, rejected: int) -> dict[str, str]:
    rng = random.Random(seed)
    text = ["".join(rng.choices(string.ascii_lowercase + " ", k=length)).strip() or "x" for length in (prompt, chosen, rejected)]
    return dict(zip(("prompt", "chosen", "rejected"), text, strict=True))


if __name__ == "__main__":
    main()
