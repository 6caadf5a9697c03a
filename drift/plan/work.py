"""How much a stage computes, in floating-point operations, and the seconds that this takes at a machine's measured rates.

Names in the formulas: P numbers in the matrices of the layers; Q, H, V as in activations.py."""

from dataclasses import dataclass

from drift.plan.activations import CHUNK, FLOAT, Setup
from drift.plan.memory import trained, trained_bytes
from drift.plan.shape import Shape

START = {"sampling": 0.5, "reference": 0.5, "training": 1.5}  # seconds of a stage with hardly any work (experiments/plan)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device does in a second: `forward`, `decode` and, with an adapter beside every matrix, `adapted`, `decode_adapted`;
    `lora` and `full` (forward and backward): floating-point operations; `update`: trained numbers in an optimiser step; `batch`:
    trained numbers in a batch, whose gradients are cast and added up; `lora_batch`: numbers in the matrices that a batch goes
    through; `files`: bytes of weights read or written. `source`: where the figures come from, in words."""

    forward: float
    adapted: float
    lora: float
    full: float
    decode: float
    decode_adapted: float
    update: float
    batch: float
    lora_batch: float
    files: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The examples that one iteration trains on, and their lengths in tokens. `replies`: of an example; `samples`: fresh replies
    drawn in all; `steps` and `batches`: over all epochs. `hindsight`: the reference reads every reply once more, after what the
    user said; `mismatched`: policy and reference read it once more, after another prompt."""

    examples: int
    replies: int
    prompt_tokens: int
    reply_tokens: int
    samples: int
    sample_prompt_tokens: int
    sample_tokens: int
    steps: int
    batches: int
    epochs: int
    hindsight: bool
    mismatched: bool

    def tokens(self, shared: bool) -> int:
        """Of one example in one pass: its prompt once and its replies without their last tokens, or every reply with its prompt."""
        if shared:
            return self.prompt_tokens + self.replies * (self.reply_tokens - 1)
        return self.replies * (self.prompt_tokens + self.reply_tokens)

    def kept_tokens(self, shared: bool) -> int:
        """Of all examples, whose outputs of frozen layers may be kept."""
        return self.examples * self.tokens(shared) * (1 + self.mismatched)

    @property
    def predicted(self) -> int:
        return self.replies * self.reply_tokens


def forward_flops(shape: Shape, layers: int, tokens: int, context: float) -> float:
    """2 P for every token, and 4 Q for every token that it attends to (`context` of them on average)."""
    return tokens * layers * (2.0 * shape.linear + 4.0 * shape.query * context)


def context(work: Workload) -> float:
    """The mean number of tokens that a token of an example attends to: half of its prompt, or its prompt and half of its reply."""
    prompt, reply = work.prompt_tokens, work.replies * work.reply_tokens
    return (prompt * prompt / 2 + reply * (prompt + work.reply_tokens / 2)) / (prompt + reply)


def reference_flops(shape: Shape, setup: Setup, work: Workload) -> float:
    """One forward pass: 2 P a token, 2 V H a predicted token; more of them for `hindsight` and `mismatched`."""
    body = forward_flops(shape, shape.layers, work.tokens(setup.shared), context(work))
    passes = 1 + work.hindsight + work.mismatched
    return passes * work.examples * (body + 2.0 * shape.vocabulary_matrix * work.predicted)


def training_flops(shape: Shape, setup: Setup, work: Workload) -> float:
    """All weights: three forward passes (one for each of two gradients), the head four (it is computed again). LoRA: two forward
    passes of the adapted layers, one of those below unless their outputs are kept, the head two. Checkpointing: one more.
    `mismatched`: one more of everything."""
    tokens, at = work.tokens(setup.shared), context(work)
    layers = setup.trained_layers(shape)
    passes = (2 if setup.adapted else 3) + setup.checkpointing + work.mismatched
    body = passes * forward_flops(shape, layers, tokens, at)
    if not setup.frozen:
        body += (1 + work.mismatched) * forward_flops(shape, shape.layers - layers, tokens, at)
    head = ((2 if setup.adapted else 4) + work.mismatched) * 2.0 * shape.vocabulary_matrix * work.predicted
    return work.epochs * work.examples * (body + head)


def sampling_flops(shape: Shape, work: Workload) -> tuple[float, float]:
    """(of the prompts, of the new tokens): 2 P and 2 V H for every new token."""
    prompt, new = work.sample_prompt_tokens, work.sample_tokens
    prompts = work.samples * forward_flops(shape, shape.layers, prompt, prompt / 2)
    per_token = forward_flops(shape, shape.layers, 1, prompt + new / 2) + 2.0 * shape.vocabulary_matrix
    return prompts, work.samples * new * per_token


def seconds(shape: Shape, setup: Setup, work: Workload, rates: Rates, *, adapted: bool) -> dict[str, float]:
    """By stage; `adapted`: of a policy with an adapter, as in every iteration of LoRA but the first. (In float32 samplers merge it
    into the weights.) Trained numbers take `trained / update` seconds a step and `trained / batch` seconds a batch, whatever its
    tokens; a trained head is also added up for every chunk of logits. Under autocast the reference pass takes a third of a
    batch's: it rounds weights, and has no gradients. Every stage loads the weights, and training writes what it has trained.
    Several devices share the work; what they send each other takes no time here."""
    prompts, new = sampling_flops(shape, work)
    added = trained(shape, setup) * work.batches
    if not setup.adapted:
        chunk = max(1, CHUNK[setup.device] // shape.vocabulary)
        added += shape.vocabulary_matrix * (work.epochs * work.examples * work.predicted // chunk)
    updated = trained(shape, setup) // (setup.devices if setup.divided else 1) * (work.steps + 1)  # 1: the check of the weights
    updates = updated / rates.update + added / setup.devices / rates.batch
    if setup.adapted:
        updates += shape.linear * setup.adapted * work.batches / setup.devices / rates.lora_batch
    load, save = setup.weight_bytes * shape.total / rates.files, trained_bytes(setup) * trained(shape, setup) / rates.files
    steps = training_flops(shape, setup, work) / (rates.lora if setup.adapted else rates.full)
    rounding = shape.total * work.batches / work.epochs / rates.batch / 3 if setup.mixed else 0.0
    forward, drawn_adapted = (
        rates.adapted if adapted else rates.forward,
        adapted and (setup.quantised or setup.compute_bytes < FLOAT),
    )
    drawn = (rates.adapted, rates.decode_adapted) if drawn_adapted else (rates.forward, rates.decode)
    found = {
        "sampling": (prompts / drawn[0] + new / drawn[1]) / setup.devices,
        "reference": (reference_flops(shape, setup, work) / forward + rounding) / setup.devices,
        "training": steps / setup.devices + updates + save,
    }
    return {stage: START[stage] + load + seconds for stage, seconds in found.items()}
