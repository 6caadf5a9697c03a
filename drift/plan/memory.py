"""The peak memory of training, of the reference pass and of sampling, by part, in bytes.

A peak is the largest of a few moments; its parts are those of that moment and add up to it. On a CPU it counts from the moment
when everything is imported, on a GPU from nothing."""

from dataclasses import dataclass

from drift.plan.activations import FLOAT, Setup, activations, layer_work, logits, rounded_weights
from drift.plan.shape import Shape

Parts = dict[str, int]  # part -> bytes
QUANTISED_BLOCK, SCALE_BLOCK = 64, 256  # of bitsandbytes: numbers with a common scale, scales with a common scale of their own
# Bytes beside all others. CPU: products compiled for their shapes, and the Trainer (experiments/plan); GPU: the CUDA context, about
LIBRARIES = {"cpu": 110 * 2**20, "cuda": 600 * 2**20}
# Of the activations: what the heap of glibc loses while they come and go (measured; experiments/plan); all weights, an adapter
HEAP = {"cpu": (0.35, 1.0), "cuda": (0.0, 0.0)}
DIVIDED = {"weights", "adapter", "gradients", "optimiser", "update"}  # parts of which a device has its share under fsdp
GATHERED = 3  # layers whose weights are brought together at once: the one computed, the next one, and a copy on the way
PREFILL = 1024  # as MAX_PREFILL_TOKENS in sampler/prefill.py


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`tokens` that one forward pass computes, `predicted` ones among them, tokens of the `longest` sequence; `several`: a step has
    more batches than one, so that gradients are there from the second one on."""

    tokens: int
    predicted: int
    longest: int
    several: bool


def weights(shape: Shape, bytes_each: int, *, quantised: bool) -> int:
    """Bytes of the weights: `bytes_each` for every number; quantised matrices of the layers take half a byte, one byte for every
    64 numbers (their scales) and 4 for every 64 x 256."""
    if not quantised:
        return bytes_each * shape.total
    packed = shape.layers * sum(_packed(inputs * outputs) for inputs, outputs in shape.matrices.values())
    return packed + bytes_each * (shape.total - shape.layers * shape.linear)


def loading(shape: Shape, setup: Setup, bytes_each: int) -> Parts:
    """While weights are loaded on a CPU: those in the file too, unless they stay as they are in it (and in its pages)."""
    if setup.device != "cpu" or mapped(setup, bytes_each):
        return {}
    return {"file": setup.file_bytes * shape.total}


def mapped(setup: Setup, bytes_each: int) -> bool:
    """Whether the weights stay pages of their file on a CPU, which take memory once they are read."""
    return setup.device == "cpu" and setup.file_bytes == bytes_each and not setup.quantised


def unread(shape: Shape, setup: Setup) -> int:
    """Bytes of the weights that training never reads: those of mapped layers whose outputs are kept."""
    if not (setup.frozen and mapped(setup, setup.weight_bytes)):
        return 0
    return setup.weight_bytes * (shape.layers - setup.adapted) * shape.layer


def _packed(numbers: int) -> int:
    scales = -(-numbers // QUANTISED_BLOCK)
    return numbers // 2 + scales + FLOAT * -(-scales // SCALE_BLOCK)


def trained(shape: Shape, setup: Setup) -> int:
    """How many numbers are trained: the adapter's, or all."""
    return shape.adapter(setup.rank, setup.adapted) if setup.adapted else shape.total


def trained_bytes(setup: Setup) -> int:
    """Bytes of a trained number: an adapter is float32 over any weights."""
    return FLOAT if setup.adapted else setup.weight_bytes


def gradients(shape: Shape, setup: Setup) -> int:
    """Bytes of the gradients: of the trained numbers, in their own format."""
    return trained(shape, setup) * trained_bytes(setup)


def optimizer_state(shape: Shape, setup: Setup) -> int:
    """Bytes of the optimiser: AdamW has two moments and RMSprop one, each in the format of the weights; 8-bit AdamW has two bytes a
    number and two float32 scales for every 256."""
    numbers = trained(shape, setup)
    if setup.optimizer == "adamw_8bit":
        return 2 * numbers + 2 * FLOAT * -(-numbers // 256)
    return numbers * trained_bytes(setup) * {"adamw": 2, "rmsprop": 1}[setup.optimizer]


def update_work(shape: Shape, setup: Setup) -> int:
    """Bytes for a moment in an update: RMSprop's denominators, of all trained numbers on a GPU (torch updates them together), of
    the largest matrix on a CPU. AdamW is fused and needs none."""
    if setup.optimizer != "rmsprop":
        return 0
    largest = shape.vocabulary_matrix if not setup.adapted else 0
    return trained_bytes(setup) * (trained(shape, setup) if setup.device == "cuda" else largest)


def training(shape: Shape, setup: Setup, batch: Batch) -> Parts:
    """The largest of these moments, the later ones with the optimiser's state: loading; the backward pass begins (activations,
    and the vocabulary or the work inside the last layer, gradients of earlier batches); it ends (gradients, one layer, the
    embedding's gradient if it is trained); the update. Of what is divided among several devices, a device's share. If the step has
    several batches, the largest one is taken not to be the first."""
    start = held(shape, setup, setup.weight_bytes, adapter=setup.adapted > 0)
    start["weights"] -= unread(shape, setup)
    fixed = start | {"optimiser": optimizer_state(shape, setup)}
    grads, inside = gradients(shape, setup), layer_work(shape, setup, batch.tokens, batch.longest)
    vocabulary = logits(shape, setup, batch.tokens, batch.predicted, training=True)
    heap = HEAP[setup.device][setup.adapted > 0]
    kept = round((1 + heap) * (activations(shape, setup, batch.tokens) + rounded_weights(shape, setup)))
    embedding = 0 if setup.adapted else setup.weight_bytes * shape.vocabulary_matrix
    gathered = [together(shape, setup, moment) for moment in range(3)]
    buckets = grads if setup.devices > 1 and not setup.divided else 0  # in which ddp adds up what the devices have
    early, late = grads if batch.several else 0, grads - buckets
    moments: list[Parts] = [
        {"gradients": early, "activations": kept, "vocabulary": vocabulary, "brought together": gathered[0]},
        {"gradients": early, "activations": kept + inside, "brought together": gathered[1]},
        {"gradients": max(early, late), "activations": inside, "vocabulary": embedding, "brought together": gathered[2]},
        {"gradients": late, "update": update_work(shape, setup)},
    ]
    shares = [share(fixed | moment | {"buckets": buckets}, setup) for moment in moments]
    loaded = start if setup.device == "cpu" else share(start, setup)  # read into the host's memory, then divided
    return largest([loaded | loading(shape, setup, setup.weight_bytes), *shares])


def share(parts: Parts, setup: Setup) -> Parts:
    """What a device has of these parts."""
    if not setup.divided:
        return parts
    gone = setup.offloaded and setup.device == "cuda"
    own = {name: 0 if gone else -(-size // setup.devices) for name, size in parts.items() if name in DIVIDED}
    return parts | own


def together(shape: Shape, setup: Setup, moment: int) -> int:
    """Bytes that fsdp has together on every device when the backward pass begins (0), inside a layer (1), at its end (2):
    embedding, head and last norm throughout, and a few layers; from 1 on a layer's gradients and the head's, at the end the head's
    and the embedding's (one of them is counted apart), with a float32 copy of what is being added up."""
    if not setup.divided:
        return 0
    outside, adapter = shape.total - shape.layers * shape.layer, FLOAT * shape.adapter(setup.rank, 1)
    layer = setup.weight_bytes * shape.layer + (adapter if setup.adapted else 0)
    found = setup.weight_bytes * outside + GATHERED * layer
    if setup.adapted:
        return found + (2 * adapter if moment else 0)
    added = {0: 0, 1: shape.layer, 2: outside}[moment]
    gradients = {0: 0, 1: shape.layer + shape.vocabulary_matrix, 2: outside - shape.vocabulary_matrix}[moment]
    return found + setup.weight_bytes * gradients + FLOAT * added


def held(shape: Shape, setup: Setup, bytes_each: int, *, adapter: bool) -> Parts:
    """What is there all the time: libraries, weights, the adapter in float32."""
    parts = {"libraries": LIBRARIES[setup.device], "weights": weights(shape, bytes_each, quantised=setup.quantised)}
    return parts | ({"adapter": trained(shape, setup) * FLOAT} if adapter else {})


def largest(moments: list[Parts]) -> Parts:
    """The moment with the most bytes, without parts of 0 bytes."""
    return {name: size for name, size in max(moments, key=total).items() if size}


def reference(shape: Shape, setup: Setup, batch: Batch) -> Parts:
    """Weights, and the adapter of an earlier iteration; two layers' hidden numbers and the work inside one, or the vocabulary;
    nothing is kept for a backward pass."""
    hidden = 2 * batch.tokens * shape.hidden * setup.weight_bytes
    rounded = setup.compute_bytes * max(a * b for a, b in shape.matrices.values()) if setup.mixed else 0
    inside = layer_work(shape, setup, batch.tokens, batch.longest) + rounded
    vocabulary = logits(shape, setup, batch.tokens, batch.predicted, training=False)
    parts = held(shape, setup, setup.weight_bytes, adapter=setup.adapted > 0)
    moments: list[Parts] = [{"activations": hidden + inside}, {"activations": hidden, "vocabulary": vocabulary}]
    return largest([parts | loading(shape, setup, setup.weight_bytes), *(parts | moment for moment in moments)])


def sampling(
    shape: Shape, setup: Setup, *, bytes_each: int, replies: int, prompt_tokens: int, new_tokens: int
) -> Parts:  # fmt: skip
    """Weights in the sampler's format (`bytes_each`; a float32 adapter is merged into float32 weights), the keys and values of
    `replies` at once, L 2 K b (prompt + new tokens) each, and the next-token logits: V for each reply, in b when they are
    collected and stacked, then with their softmax in float32, twice. A slice of prompts is computed inside one layer."""
    parts = held(shape, setup, bytes_each, adapter=setup.adapted > 0 and (bytes_each < FLOAT or setup.quantised))
    cached = shape.layers * 2 * shape.key * bytes_each * replies * (prompt_tokens + new_tokens)
    slice_tokens = min(PREFILL, replies * prompt_tokens)
    inside = slice_tokens * (3 * shape.intermediate + shape.layers * 2 * shape.key) * bytes_each
    choosing = replies * shape.vocabulary * (bytes_each + 2 * FLOAT)
    drawing = parts | {"keys and values": cached, "vocabulary": max(choosing, inside)}
    return largest([parts | loading(shape, setup, bytes_each), drawing])


def total(parts: Parts) -> int:
    return sum(parts.values())
