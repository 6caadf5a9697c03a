"""Training on several devices: Lightning's strategies, and what the ranks tell each other in an optimiser step.

ddp: every device has all weights; the ranks add up their gradients once a step, in the backward pass of their last batch. fsdp:
weights, gradients and the optimiser's numbers are divided among the devices, and a layer's weights are brought together when it is
computed (FSDP2). Either way a step's batches are dealt to the ranks, and every sum is over the whole step.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from drift.engine.ranks import rank, world
from drift.train.settings import Strategy

Value = TypeVar("Value")


class RankEnvironment(LightningEnvironment):
    """The ranks as Lightning sees them: each a node with one device, whatever the variables of a scheduler say. They have met
    already (drift/engine/ranks.py)."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def node_rank(self) -> int:
        return rank()

    def local_rank(self) -> int:
        return 0


def strategy_of(strategy: Strategy) -> dict[str, Any]:
    """The arguments of a Trainer on all ranks; none with a single one."""
    if world() == 1:
        return {}
    common = {"num_nodes": world(), "use_distributed_sampler": False, "environment": RankEnvironment()}
    if strategy == "fsdp":
        return common | {"strategy": Sharded()}
    return common | {"strategy": DDPStrategy(gradient_as_bucket_view=True, init_sync=False)}


def is_sharded(strategy: Strategy) -> bool:
    """Whether the weights are divided among the ranks."""
    return strategy == "fsdp" and world() > 1


class Sharded(ModelParallelStrategy):
    """FSDP2. Its checkpoints are those of a single device: rank 0 brings the trained numbers together, saves them, and reads them
    again, so that training resumes on any number of devices. Frozen weights are not in them."""

    def __init__(self) -> None:
        super().__init__(data_parallel_size=world(), tensor_parallel_size=1, save_distributed_checkpoint=False)

    def model_to_device(self) -> None:
        """Does nothing: `shard` has put every part where it belongs, which with CPU offload is not the device."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return collected({name: p for name, p in self.lightning_module.named_parameters() if p.requires_grad})

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        state = optimizer.state_dict()
        return state | {"state": {number: collected(found) for number, found in state["state"].items()}}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        module, (optimizer,) = self.lightning_module, self.optimizers
        assert module is not None
        found = self.checkpoint_io.load_checkpoint(checkpoint_path) if rank() == 0 else None
        held = found or {"state_dict": {}, "optimizer_states": [None]}
        weights, (state,) = held.pop("state_dict"), held.pop("optimizer_states")
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(divided(weights.get(name), parameter))
        optimizer.load_state_dict(divided_state(state, list(trained.values())))
        return told(held)


def shard(module: Any, mesh: Any, *, dtype: torch.dtype, offload: bool) -> None:
    """Divides a module's weights among the ranks of a mesh: each of the model's layers a group, which is brought together when it
    is computed, and everything else (embedding, head, last norm) another. Narrower trained weights become `dtype`, a group at a
    time, so that no rank holds more than its share and a group. `offload`: the divided numbers stay in the host's memory, and the
    optimiser works there."""
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    (wide,) = {torch.promote_types(p.dtype, torch.float32) for p in module.parameters() if p.requires_grad}  # to add gradients up
    place = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
    settings: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=wide), "offload_policy": place}
    for part in (*sharded_layers(module.model), module):
        for parameter in part.parameters():
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, dtype))
        fully_shard(part, **settings)


def divide_again(module: Any) -> None:
    """After passes without a backward pass, in which FSDP2 leaves the embedding and the head brought together: until then its
    parameters are not those that the optimiser and the gradients belong to."""
    module.reshard()


def sharded_layers(model: Any) -> list[Any]:
    """The model's layers, as its own code names what may not be split."""
    from drift.model.policy import without_adapter

    plain = without_adapter(model)
    return [part for part in plain.modules() if type(part).__name__ in (plain._no_split_modules or ())]


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be divided among the ranks, brought together on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be divided among the ranks."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def collected(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors brought together in rank 0's host memory, one at a time; nothing on the other ranks."""
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach()) if isinstance(tensor, Tensor) else tensor
        if rank() == 0:
            found[name] = value.cpu() if isinstance(tensor, DTensor) else value
    return found


def divided(tensor: Tensor | None, like: Any) -> Any:
    """Rank 0's tensor, divided among the ranks as `like` is."""
    values = torch.empty(like.shape, dtype=like.dtype) if tensor is None else tensor.to(like.dtype)
    return distribute_tensor(values.to(like.device), like.device_mesh, like.placements)


def divided_state(state: Any, parameters: list[Any]) -> dict[str, Any]:
    """An optimiser's state that rank 0 has read. What it keeps for every trained number is divided as the parameters are; the rest,
    a count of steps, is the same on every rank."""
    outline: Any = None
    if state is not None:
        kept = {i: {k: None if v.shape == parameters[i].shape else v for k, v in one.items()} for i, one in state["state"].items()}
        outline = state | {"state": kept}
    outline = told(outline)
    for i, one in outline["state"].items():
        for name in (name for name, value in one.items() if value is None):
            one[name] = divided(state["state"][i][name] if state is not None else None, parameters[i])
    return outline


def told(value: Value) -> Value:
    """Rank 0's value, on every rank."""
    values = [value]
    if world() > 1:
        torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def everyones(value: Value) -> list[Value]:
    """The values of all ranks, in their order. All ranks must call this at the same point."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    torch.distributed.all_gather_object(found, value)
    return found


def added(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Name by name the sum of what the ranks have."""
    first, *others = parts
    total = dict(first)
    for part in others:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


@contextmanager
def local_gradients(trainer_model: Any) -> Iterator[None]:
    """Backward passes inside add to this rank's gradients only: under ddp, gradients are added up in a step's last one."""
    from torch.nn.parallel import DistributedDataParallel

    with trainer_model.no_sync() if isinstance(trainer_model, DistributedDataParallel) else nullcontext():
        yield


def add_up(tensor: Tensor) -> Tensor:
    """The sum of the ranks' tensors, in place."""
    if world() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor
