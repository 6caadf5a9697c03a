"""FSDP2 on one device: the same numbers as without it, and what it costs in time and memory. One device is enough to see whether
the prefix-shared layout works under it: attention, hooks, log-probabilities in chunks, checkpointing."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import DEVICE, peak_gib, random_model, random_pairs, reset_peak, synchronized_clock
from training import our_rows

ROUNDS, TOKENS = 3, 8192


class Root(torch.nn.Module):
    """Model and head in one `forward`, which is what a sharding strategy wraps."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        from drift.score import shared

        return shared.reply_logprobs(self.model, batch)[0]


def measure(size: str, say: Callable) -> None:
    from torch import distributed

    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    root, batch = Root(random_model(size, dtype)), one_batch(4 if size == "tiny" else 32, size)
    root.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    root.train()
    plain = passes(root, batch, "one device", say)
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if DEVICE == "cuda" else "gloo"
        distributed.init_process_group(backend, init_method=f"file://{Path(folder).resolve()}/meet", rank=0, world_size=1)
        try:
            shard(root)
            sharded = passes(root, batch, "FSDP2", say)
        finally:
            distributed.destroy_process_group()
    errors = {"sums_differ_by": float((plain[0] - sharded[0]).abs().max()), "gradient_norms": [plain[1], sharded[1]]}
    say(ratio="FSDP2 / one device", **errors)
    assert errors["sums_differ_by"] < 1e-3 * float(plain[0].abs().max()), errors
    assert abs(plain[1] - sharded[1]) < 1e-2 * plain[1], errors


def shard(root: Root) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(DEVICE, (1,))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in root.model.base_model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(root, mesh=mesh, mp_policy=policy)


def one_batch(pairs: int, size: str) -> dict[str, Any]:
    """The first pairs that make up TOKENS, on the device."""
    from drift.score import shared

    chosen: list[Any] = []
    for row in our_rows(random_pairs(pairs, shrink=10 if size == "tiny" else 1)):
        if shared.num_tokens([*chosen, *row.sequences]) <= TOKENS:
            chosen += row.sequences
    batch = shared.collate(chosen, 0)
    return {name: value.to(DEVICE) if torch.is_tensor(value) else value for name, value in batch.items()}


def passes(root: Root, batch: dict[str, Any], side: str, say: Callable) -> tuple[torch.Tensor, float]:
    """(the log-probs of the replies, the norm of the gradients)."""
    for kind in ("warm-up", *["round"] * ROUNDS):
        root.zero_grad()
        reset_peak()
        begun = synchronized_clock()
        sums = root(batch)
        sums.sum().backward()
        seconds = synchronized_clock() - begun
        say(side=side, kind=kind, seconds=seconds, tokens_per_second=batch["input_ids"].numel() / seconds, peak_gib=peak_gib())
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in root.parameters() if p.grad is not None]))
    return sums.detach().float(), norm
