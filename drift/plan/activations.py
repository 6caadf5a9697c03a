"""What the forward pass keeps for the backward pass, in bytes: it follows the layers of transformers, LoRA of peft, and
`score/`.

Names in the formulas: H hidden, I intermediate, Q and K numbers in a token's queries and keys, V vocabulary, T tokens of a batch, N
of them that predict a reply token, c bytes of a number in the computation (2: bfloat16), w of one between the layers, r rank."""

from dataclasses import dataclass

from drift.plan.shape import Shape

# As in score/, which imports torch (a test compares them): numbers in a chunk of logits, queries in a tile of attention
CHUNK = {"cpu": 2**23, "cuda": 2**28}
TILE = 256
FLOAT = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a policy is trained, as far as memory and time depend on it. `adapted`: layers with an adapter (0: all weights are
    trained). Bytes of a number: `weight_bytes` of the weights, `compute_bytes` of the computation (lower under autocast),
    `file_bytes` on disk. `quantised`: the matrices of the layers have four bits. `device`: cpu or cuda. `frozen`: the layers below
    the adapter are not computed in training (their outputs are kept). `devices`: how many train together; `divided`: weights,
    gradients and optimiser are divided among them (fsdp); `offloaded`: and stay in the host's memory."""

    adapted: int
    rank: int
    weight_bytes: int
    compute_bytes: int
    file_bytes: int
    quantised: bool
    checkpointing: bool
    optimizer: str
    shared: bool
    frozen: bool
    device: str
    devices: int
    divided: bool
    offloaded: bool

    @property
    def mixed(self) -> bool:
        """Float32 weights that are rounded for every product (autocast)."""
        return self.compute_bytes < self.weight_bytes

    def trained_layers(self, shape: Shape) -> int:
        return self.adapted or shape.layers


def kept_per_token(shape: Shape, setup: Setup) -> int:
    """Bytes that a layer keeps for one token.

    Two norms: their input in float32, 4 H, and its scale, 4; if all weights are trained, the normed numbers too, w H. Inputs of the
    matrices: one for those that share it, but a copy for each under autocast (c H) and under LoRA in bfloat16, where peft casts
    to float32 (4 H). Attention: queries, keys, values and its output, c (2 Q + 2 K). The gated feed-forward layer: c 4 I. LoRA:
    4 r for each matrix; in bfloat16 the inputs of the last two matrices are cast too, 4 Q and 4 I instead of c I."""
    hidden, compute = shape.hidden, setup.compute_bytes
    fused = shape.kind == "phi3"  # queries, keys and values are one product, of which the values keep all alive
    readers = 2 if fused else 5  # matrices that read a norm's output
    attention, gated = compute * 2 * (shape.query + shape.key), compute * 4 * shape.intermediate
    attention += compute * (shape.query + shape.key) if fused else 0
    norms = 2 * (FLOAT * hidden + FLOAT)
    if shape.key_norms:
        norms += FLOAT * (shape.query + shape.key) + FLOAT * (shape.key_norms_per_token)
    if not setup.adapted:
        norms += setup.weight_bytes * 2 * hidden + (compute * (shape.query + shape.key) if shape.key_norms else 0)
        return norms + compute * hidden * (readers if setup.mixed else 2) + attention + gated
    low_rank = FLOAT * setup.rank * len(shape.matrices)
    if compute == FLOAT:
        return norms + FLOAT * 2 * hidden + attention + gated + low_rank
    casts = FLOAT * (readers * hidden + shape.query + shape.intermediate) - compute * shape.intermediate
    return norms + casts + attention + gated + low_rank


def layer_input(shape: Shape, setup: Setup) -> int:
    """Bytes of one token between two layers: w H (what gradient checkpointing keeps of a layer)."""
    return setup.weight_bytes * shape.hidden


def activations(shape: Shape, setup: Setup, tokens: int) -> int:
    """Bytes kept for a batch of T tokens. With checkpointing: the inputs of all layers, and everything of one layer."""
    layers, per_token = setup.trained_layers(shape), kept_per_token(shape, setup)
    if setup.checkpointing:
        return tokens * (layers * layer_input(shape, setup) + per_token)
    return tokens * layers * per_token


def rounded_weights(shape: Shape, setup: Setup) -> int:
    """Bytes of the bfloat16 copies of the matrices that autocast keeps until the backward pass: 2 for each number of all layers, or
    of one layer with checkpointing."""
    if not setup.mixed:
        return 0
    return setup.compute_bytes * shape.linear * (1 if setup.checkpointing else setup.trained_layers(shape))


def layer_work(shape: Shape, setup: Setup, tokens: int, longest: int) -> int:
    """Bytes that are needed for a moment inside one layer: three gradients of the feed-forward layer, 3 T I c (float32 under
    LoRA); or a tile of attention, twice heads x TILE x S in float32 and once in c, S the longest sequence; and one four-bit matrix,
    unpacked."""
    number = FLOAT if setup.adapted else setup.compute_bytes
    gated = 3 * tokens * shape.intermediate * number
    tile = shape.heads * min(TILE, longest) * longest * (2 * FLOAT + setup.compute_bytes) if setup.device == "cpu" else 0
    largest = max(inputs * outputs for inputs, outputs in shape.matrices.values())
    return max(gated, tile) + (setup.compute_bytes * largest if setup.quantised else 0)


def logits(shape: Shape, setup: Setup, tokens: int, predicted: int, *, training: bool) -> int:
    """Bytes at the vocabulary. Shared layout: the hidden numbers of N tokens, N H c (twice with a frozen head: the direction of its
    gradient); two chunks of logits in float32 and, in bfloat16, one in c; a rounded head, 2 V H, under autocast; in training with
    a trained head, its gradient, w V H, and on a GPU under autocast a product in bfloat16, 2 V H. Padded layout: the logits of T
    tokens in c and in float32, and three more times in float32: softmax, products, gradients."""
    if not setup.shared:
        return tokens * shape.vocabulary * (4 * FLOAT + (setup.compute_bytes if setup.compute_bytes < FLOAT else 0))
    chunk = max(CHUNK[setup.device], shape.vocabulary)
    if setup.device == "cpu":  # pages that are never written take no memory
        chunk = min(predicted, chunk // shape.vocabulary) * shape.vocabulary
    bytes_each = 2 * FLOAT + (setup.compute_bytes if setup.compute_bytes < FLOAT else 0)
    kept = predicted * shape.hidden * setup.compute_bytes * (2 if training and setup.adapted else 1)
    head = setup.compute_bytes * shape.vocabulary_matrix if setup.mixed else 0
    if training and not setup.adapted:
        head += setup.weight_bytes * shape.vocabulary_matrix + (head if setup.device == "cuda" else 0)
    return chunk * bytes_each + kept + head
