"""The arithmetic that training needs, and the rate of the machine in a plain matrix product."""

import statistics
import time
from typing import Any


def needed_flop(config: dict[str, Any], pairs: list[tuple[int, int, int]], adapter_share: float | None) -> float:
    """The arithmetic of an epoch over pairs of (prompt, chosen, rejected) tokens, including the reference pass: a prompt counts
    once, the vocabulary only for replies, attention only for tokens that attend to each other (as in MFU, arXiv 2204.02311, without
    the empty half of the mask). `config`: the fields of config.json. `adapter_share`: the share of the layers, from the top, that
    have an adapter (None: all weights are trained); the layers below it are computed once."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    projections = 2 * hidden * head * (heads + config["num_key_value_heads"])
    layers = config["num_hidden_layers"] * (projections + 3 * hidden * config["intermediate_size"])
    replies, tokens = sum(pair[1] + pair[2] for pair in pairs), sum(map(sum, pairs))
    seen = sum(prompt**2 / 2 + sum(reply * prompt + reply**2 / 2 for reply in both) for prompt, *both in pairs)
    attention = 4 * config["num_hidden_layers"] * heads * head * seen
    forward = 2 * (layers * tokens + config["vocab_size"] * hidden * replies)
    if adapter_share is None:
        return (forward + attention) * (1 + 1 + 2)
    lower = 2 * layers * tokens * (1 - adapter_share) * 2  # neither again forward, nor backward
    return forward * (1 + 1 + 1) - lower + attention * (4 * adapter_share + 1 - adapter_share)


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
