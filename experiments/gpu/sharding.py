"""FSDP2 on one device, divided by the program's own code: the same numbers as without it, and what it costs in time and memory. One
device is enough to see whether the prefix-shared layout works under it (attention, hooks, log-probabilities in chunks,
checkpointing), and whether updates, checkpoints and CPU offload do with the devices' own collectives."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import DEVICE, peak_gib, random_model, random_pairs, reset_peak, synchronized_clock
from training import our_rows

ROUNDS, TOKENS, RATE = 3, 8192, 1e-3


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

    batch = one_batch(4 if size == "tiny" else 32, size)
    sides = {"one device": passes(root_of(size), batch, "one device", say)}
    with tempfile.TemporaryDirectory() as folder:
        backend = "cpu:gloo,cuda:nccl" if DEVICE == "cuda" else "gloo"  # as in drift/engine/ranks.py
        distributed.init_process_group(backend, init_method=f"file://{Path(folder).resolve()}/meet", rank=0, world_size=1)
        try:
            for side, offload in (("FSDP2", False), ("FSDP2, offloaded", True)):
                sides[side] = passes(divided_root(size, offload), batch, side, say)
        finally:
            distributed.destroy_process_group()
    sums, norm, way = sides.pop("one device")
    for side, (other_sums, *others) in sides.items():
        differ = float((sums - other_sums).abs().max())
        say(ratio=f"{side} / one device", sums_differ_by=differ, gradient_norms=[norm, others[0]], ways=[way, others[1]])
        assert differ < 1e-3 * float(sums.abs().max()), (side, differ)
        assert all(abs(one - other) < 1e-2 * one for one, other in zip((norm, way), others, strict=True)), (side, others)


def root_of(size: str) -> Root:
    root = Root(random_model(size, torch.bfloat16 if DEVICE == "cuda" else torch.float32))
    root.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return root.train()


def divided_root(size: str, offload: bool) -> Root:
    from torch.distributed.device_mesh import init_device_mesh

    from drift.train.parallel import shard

    root = root_of(size)
    shard(root, init_device_mesh(DEVICE, (1,)), dtype=next(root.parameters()).dtype, offload=offload)
    return root


def one_batch(pairs: int, size: str) -> dict[str, Any]:
    """The first pairs that make up TOKENS, on the device."""
    from drift.score import shared

    chosen: list[Any] = []
    for row in our_rows(random_pairs(pairs, shrink=10 if size == "tiny" else 1)):
        if shared.num_tokens([*chosen, *row.sequences]) <= TOKENS:
            chosen += row.sequences
    batch = shared.collate(chosen, 0)
    return {name: value.to(DEVICE) if torch.is_tensor(value) else value for name, value in batch.items()}


def passes(root: Root, batch: dict[str, Any], side: str, say: Callable) -> tuple[torch.Tensor, float, float]:
    """(the log-probs of the replies, the norm of the gradients, how far two updates move the weights)."""
    for kind in ("warm-up", *["round"] * ROUNDS):
        root.zero_grad()
        reset_peak()
        begun = synchronized_clock()
        sums = root(batch)
        sums.sum().backward()
        seconds = synchronized_clock() - begun
        say(side=side, kind=kind, seconds=seconds, tokens_per_second=batch["input_ids"].numel() / seconds, peak_gib=peak_gib())
    return sums.detach().float(), *updated(root)


def updated(root: Root) -> tuple[float, float]:
    """(the norm of the gradients, how far two updates move the weights). Between them, divided ones go through a checkpoint."""
    from torch.distributed.tensor import DTensor

    from drift.train.optimizer import optimizer_of
    from drift.train.parallel import whole

    weights = list(root.parameters())
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None]))
    torch.nn.utils.clip_grads_with_norm_(weights, 1.0, norm)
    optimizer = optimizer_of("adamw", weights, RATE)
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    if isinstance(weights[0], DTensor):
        through_checkpoint(root, optimizer)
    optimizer.step()
    moved = [whole(weight.detach() - old) for weight, old in zip(weights, before, strict=True)]
    return float(norm), sum(float(way.float().square().sum()) for way in moved) ** 0.5


@torch.no_grad()
def through_checkpoint(root: Root, optimizer: Any) -> None:
    """Brings weights and moments together and divides them again, as drift/train/parallel.py does for a checkpoint."""
    from drift.train.parallel import collected, divided, divided_state

    named = dict(root.named_parameters())
    weights, state = collected(named), optimizer.state_dict()
    state |= {"state": {number: collected(found) for number, found in state["state"].items()}}
    for name, weight in named.items():
        weight.copy_(divided(weights[name], weight))
    optimizer.load_state_dict(divided_state(state, list(named.values())))
