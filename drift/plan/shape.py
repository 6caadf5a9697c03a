"""The sizes of a model, from its `config.json` alone: no weight is needed, and no model code is imported.

Known are the dense types with gated feed-forward layers that `model/family.py` lists; tests/test_plan_shape.py compares every
number with the module itself."""

from dataclasses import dataclass
from typing import Any

KNOWN = ("llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")
NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
Matrices = dict[str, tuple[int, int]]  # name -> (inputs, outputs)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """`query` and `key`: numbers in a token's queries, and in its keys or its values. `norms`: numbers in the norm weights of a
    layer; `key_norms`: of its norms of queries and keys (0: none). `biased`: the matrices that have a bias.
    `file_bytes`: of a number in the weight files."""

    kind: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    query: int
    key: int
    vocabulary: int
    tied: bool
    norms: int
    key_norms: int
    biased: tuple[str, ...]
    file_bytes: int

    @property
    def matrices(self) -> Matrices:
        """The linear modules of a layer."""
        ends = {"o_proj": (self.query, self.hidden), "down_proj": (self.intermediate, self.hidden)}
        if self.kind == "phi3":
            wide = {"qkv_proj": self.query + 2 * self.key, "gate_up_proj": 2 * self.intermediate}
        else:
            wide = {"q_proj": self.query, "k_proj": self.key, "v_proj": self.key}
            wide |= {"gate_proj": self.intermediate, "up_proj": self.intermediate}
        return {name: (self.hidden, outputs) for name, outputs in wide.items()} | ends

    @property
    def key_norms_per_token(self) -> int:
        """Norms that a token's queries and keys go through: one for each head, or one for all of them."""
        return {0: 0, self.query + self.key: 2}.get(self.key_norms, (self.query + self.key) * self.heads // self.query)

    @property
    def linear(self) -> int:
        """Numbers in the matrices of a layer."""
        return sum(inputs * outputs for inputs, outputs in self.matrices.values())

    @property
    def layer(self) -> int:
        """Numbers in a layer: matrices, biases, norms."""
        biases = sum(self.matrices[name][1] for name in self.biased)
        return self.linear + biases + self.norms + self.key_norms

    @property
    def vocabulary_matrix(self) -> int:
        """Numbers in the embedding, and in a head of its own."""
        return self.vocabulary * self.hidden

    @property
    def total(self) -> int:
        """Numbers in the model: layers, final norm, embedding, and the head unless it is the embedding."""
        return self.layers * self.layer + self.hidden + self.vocabulary_matrix * (1 if self.tied else 2)

    def adapter(self, rank: int, layers: int) -> int:
        """Numbers in a LoRA adapter on so many layers: rank x (inputs + outputs) for every matrix."""
        return layers * sum(rank * (inputs + outputs) for inputs, outputs in self.matrices.values())


def shape_of(config: Any) -> Shape | None:
    """The sizes in a configuration of transformers; None: models of its type are not known here (or a size is no number, which is
    refused when the model is checked)."""
    kind, values = config.model_type, config.to_dict()
    if kind not in KNOWN or not all(type(values[name]) is int and values[name] > 0 for name in NEEDED):
        return None
    heads = values["num_attention_heads"]
    head = values.get("head_dim") or values["hidden_size"] // heads
    query, key = heads * head, (values.get("num_key_value_heads") or heads) * head
    attention = bool(values.get("attention_bias")) and kind not in ("mistral", "phi3")
    biased = ("q_proj", "k_proj", "v_proj") if attention or kind == "qwen2" else ()
    biased += ("o_proj",) if attention and kind != "qwen2" else ()
    biased += ("gate_proj", "up_proj", "down_proj") if values.get("mlp_bias") and kind in ("llama", "smollm3") else ()
    return Shape(
        kind=kind,
        layers=values["num_hidden_layers"],
        hidden=values["hidden_size"],
        intermediate=values["intermediate_size"],
        heads=heads,
        query=query,
        key=key,
        vocabulary=values["vocab_size"],
        tied=bool(values["tie_word_embeddings"]),
        norms=2 * values["hidden_size"],
        key_norms={"qwen3": 2 * head, "olmo2": query + key}.get(kind, 0),
        biased=biased,
        file_bytes=2 if str(values.get("dtype")).removeprefix("torch.") in ("bfloat16", "float16") else 4,
    )
