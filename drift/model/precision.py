"""The number format of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
# A lower learning rate moves few bfloat16 weights: RMSprop and AdamW change one by about the rate, and half the distance of two
# such numbers near .02, a usual weight, is 6e-5.
LEAST_BFLOAT16_RATE = 5e-5


def resolve(precision: Precision) -> Literal["float32", "bfloat16"]:
    """`auto` is bfloat16 on a GPU or CPU with native bfloat16 multiplication; elsewhere float32, which is about three times faster
    on a CPU than emulated bfloat16. GPUs before NVIDIA's Ampere (T4, V100) only emulate it."""
    if precision != "auto":
        return precision
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


@contextmanager
def rounded_for_each_use() -> Iterator[None]:
    """Autocast inside rounds a trained weight whenever it is used. Otherwise it would keep the rounded weights of all layers until
    its end, which is that of the optimiser step: also those that gradient checkpointing and FSDP2 have freed."""
    import torch

    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)
