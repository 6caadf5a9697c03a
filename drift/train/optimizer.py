"""Optimisers, and the learning rate over a training's steps."""

from typing import Any

import torch


def optimizer_of(name: str, parameters: Any, rate: float) -> Any:
    kinds = {
        "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        "adamw_8bit": adamw_8bit,
        "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr),
    }
    return kinds[name](parameters, rate)


def adamw_8bit(parameters: Any, rate: float) -> Any:
    """AdamW with moments of one byte each (arXiv 2110.02861)."""
    from bitsandbytes.optim import AdamW8bit  # type: ignore[attr-defined]

    return AdamW8bit(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)


def rate_share(step: int, num_steps: int, warmup_share: float, final_share: float) -> float:
    """The share of the learning rate at a step (from 0): linear warm-up over the first share of the steps, then linear decay to the
    final share, which the step after the last one would have."""
    warm = max(1, round(warmup_share * num_steps)) if warmup_share else 0
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, num_steps - warm)
    return 1 - (1 - final_share) * min(1.0, done)
