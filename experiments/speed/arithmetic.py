"""How much arithmetic the work needs, and how much the machine does in a plain matrix product."""

import json
import statistics
import time
from pathlib import Path


def needed_flop(model: Path, pairs: list[tuple[int, int, int]], adapter_share: float | None) -> float:
    """Arithmetic that an epoch over pairs of (prompt, chosen, rejected) tokens needs, the reference pass included: a prompt counted
    once, the vocabulary for replies only, attention's own products left out. `adapter_share`: of the layers, from the top,
    that have an adapter (None: all weights are trained); the layers below it are needed once."""
    config = json.loads((model / "config.json").read_text())
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kept = 2 * hidden * (config.get("head_dim") or hidden // heads) * (heads + config["num_key_value_heads"])
    layers = config["num_hidden_layers"] * (kept + 3 * hidden * config["intermediate_size"])
    replies, tokens = sum(pair[1] + pair[2] for pair in pairs), sum(map(sum, pairs))
    forward = 2 * (layers * tokens + config["vocab_size"] * hidden * replies)
    if adapter_share is None:
        return forward * (1 + 1 + 2)
    return forward * (1 + 1 + 1) - 2 * layers * tokens * (1 - adapter_share) * 2  # neither again forward, nor backward


def matrix_product_rate(precision: str) -> float:
    """FLOP/s of this machine, now: the median of products of two square matrices, repeated for three seconds (a burst after a pause
    runs up to twice as fast as what a processor holds)."""
    import torch

    device, n = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    one, other = (torch.randn(n, n, device=device).to(getattr(torch, precision)) for _ in range(2))
    times: list[float] = []
    while sum(times) < 3.0:
        begun = time.monotonic()
        (one @ other)[0, 0].item()
        times.append(time.monotonic() - begun)
    return 2 * n**3 / statistics.median(times)
