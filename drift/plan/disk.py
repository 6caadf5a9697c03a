"""What a run writes to its store, by artefact, in bytes."""

from drift.plan.activations import Setup
from drift.plan.memory import optimizer_state, trained, trained_bytes
from drift.plan.shape import Shape
from drift.plan.work import Workload

TEXT = 4  # bytes of a token's text, about
COPIES = 3  # of a reply's text: as drawn, in its example, in the run folder's links


def policy_bytes(shape: Shape, setup: Setup) -> int:
    """A policy: the trained numbers, in their own format."""
    return trained(shape, setup) * trained_bytes(setup)


def checkpoint_bytes(shape: Shape, setup: Setup) -> int:
    """A checkpoint: the trained numbers and the optimiser's state. While one is replaced there are two."""
    return policy_bytes(shape, setup) + optimizer_state(shape, setup)


def frozen_bytes(shape: Shape, setup: Setup, work: Workload) -> int:
    """The kept outputs of the layers below an adapter: H c for every token of a pass; 0 if they are not kept."""
    return work.kept_tokens(setup.shared) * shape.hidden * setup.compute_bytes if setup.frozen else 0


def text_bytes(work: Workload) -> int:
    """The replies and examples as text, about."""
    examples = work.examples * (work.prompt_tokens + work.replies * work.reply_tokens)
    return COPIES * TEXT * (examples + work.samples * (work.sample_prompt_tokens + work.sample_tokens))


def run_bytes(shape: Shape, setup: Setup, work: Workload, iterations: int, policies: int) -> dict[str, int]:
    """Artefact -> bytes of a whole run; `policies`: the most that it keeps at once. The two checkpoints of the training under way
    are removed at its end."""
    kept = {
        "policies": policies * policy_bytes(shape, setup),
        "outputs of frozen layers": iterations * frozen_bytes(shape, setup, work),
        "texts": iterations * text_bytes(work),
        "checkpoints while training": 2 * checkpoint_bytes(shape, setup) if iterations else 0,
    }
    return {name: size for name, size in kept.items() if size}
