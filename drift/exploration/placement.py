"""The map: one UMAP (arXiv 1802.03426) of the replies of all policies, seeds and prompts; a stage of the store."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from drift.console import say
from drift.exploration.settings import Exploration
from drift.store import Store

VERSION = 1


def centred(vectors: Any, prompts: Any, how: str) -> Any:
    """The embeddings, with `prompt` minus the mean of those of the same prompt. `prompts`: (N,) a number for each prompt."""
    if how == "none":
        return vectors
    sums = np.zeros((prompts.max() + 1, vectors.shape[1]))
    np.add.at(sums, prompts, vectors)
    return vectors - (sums / np.maximum(np.bincount(prompts), 1)[:, None])[prompts]


def place(store: Store, settings: Exploration, vectors: Any) -> Any:
    """(N, dimensions): the places of the replies on the map. The seed is fixed, so UMAP works on one thread."""
    from safetensors.numpy import load_file, save_file

    def work(progress: Path, output: Path) -> dict[str, Any]:
        from umap import UMAP

        say(f"  UMAP of {len(vectors)} replies ...")
        umap = UMAP(**options, n_jobs=1, random_state=settings.seed)
        save_file({"places": np.ascontiguousarray(umap.fit_transform(vectors), dtype=np.float32)}, output / "places.safetensors")
        return {"replies": len(vectors)}

    options: dict[str, Any] = {
        "n_neighbors": min(settings.neighbours, len(vectors) - 1), "min_dist": settings.min_distance, "metric": settings.metric,
        "n_components": settings.dimensions,
    }  # fmt: skip
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    inputs = {"embeddings": hashlib.sha256(vectors.tobytes()).hexdigest()}
    stage = store.run("places", work, version=VERSION, settings=options | {"seed": settings.seed}, inputs=inputs)
    return load_file(stage.path / "places.safetensors")["places"].astype(float)
