"""Layers below the lowest adapter never change: the reference pass keeps what they put out for every batch, and training starts
from there. It holds because reference and training run the same rows, and because both sides share those layers; and for models
whose layers don't ask for their own number in the list (`model/family.py`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from drift.model.architecture import causal
from drift.model.family import objection
from drift.model.policy import Policy, without_adapter
from drift.score.plan import Plan
from drift.train.settings import Train

BYTES = {"float32": 4, "bfloat16": 2}


def num_frozen(train: Train, start: Policy, plan: Plan) -> int:
    """How many of the lowest layers' outputs are kept: 0 for padded rows, without an adapter, for a model that can't do without
    its lower layers, or where all batches together would take more than `train.frozen_cache_gib`."""
    if train.adapter is None or plan.layout == "padded":
        return 0
    config, _ = causal(start.base)
    if objection(config, "frozen_layers", longest=0):  # rows were measured when the model was checked
        return 0
    if plan.workload()["tokens"] * config.hidden_size * BYTES[train.compute.dtype] > train.frozen_cache_gib * 2**30:
        return 0
    if start.is_adapter:
        own = json.loads((start.directory / "adapter_config.json").read_text(encoding="utf-8"))
        reached = own["layers_to_transform"]  # another program's adapter may say one number, or none for all layers
        return min(reached) if isinstance(reached, list) else reached or 0
    return train.adapter.layers(config.num_hidden_layers).start


@contextmanager
def removed(model: Any, layers: int) -> Iterator[None]:
    """The model without its lowest layers; they are back afterwards."""
    part = without_adapter(model).base_model
    whole = part.layers
    part.layers = whole[layers:]
    try:
        yield
    finally:
        part.layers = whole
