"""Frozen layers: those below the lowest adapter never change, so the reference pass saves their outputs and training starts there.

This is exact because reference and training run the same batches and share these layers, and for models whose layers don't depend
on their own position in the list (`model/family.py`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from drift.model.architecture import config_of
from drift.model.family import objection
from drift.model.policy import Policy, without_adapter
from drift.score.plan import Plan
from drift.train.settings import Train

BYTES = {"float32": 4, "bfloat16": 2}


def num_frozen(train: Train, start: Policy, plan: Plan) -> int:
    """The number of lowest layers whose outputs are saved. 0: with the padded layout, without an adapter, for a model that needs
    its lower layers, or if all batches together would take more than `train.frozen_cache_gib`."""
    if train.adapter is None or plan.layout == "padded":
        return 0
    config = config_of(start.base)
    if objection(config, "frozen_layers", longest=0):  # the longest sequence was checked together with the model
        return 0
    if plan.workload()["tokens"] * config.hidden_size * BYTES[train.compute.dtype] > train.frozen_cache_gib * 2**30:
        return 0
    if start.is_adapter:
        adapter = json.loads((start.directory / "adapter_config.json").read_text(encoding="utf-8"))
        adapted = adapter["layers_to_transform"]  # in another program's adapter it may be one number, or None for all layers
        return min(adapted) if isinstance(adapted, list) else adapted or 0
    return train.adapter.layers(config.num_hidden_layers).start


@contextmanager
def without_layers(model: Any, count: int) -> Iterator[None]:
    """Removes the model's lowest `count` layers, and puts them back afterwards."""
    base = without_adapter(model).base_model
    layers = base.layers
    base.layers = layers[count:]
    try:
        yield
    finally:
        base.layers = layers
