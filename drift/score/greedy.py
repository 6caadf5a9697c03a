"""How far tokens fall short of the likeliest ones: the check of greedy replies whose sampler has no log-probabilities."""

from collections.abc import Sequence

from drift.model.policy import Policy
from drift.score.sequence import Compute, TokenSequence


def shortfalls(compute: Compute, policy: Policy, sequences: Sequence[TokenSequence]) -> list[list[float]]:
    """For every token of every reply, the log-probability of the likeliest token in its place minus its own, in nats: 0 for a reply
    that was decoded greedily."""
    import torch

    from drift.model.policy import free, load_model

    loaded, found = [load_model(policy, getattr(torch, compute.dtype))], []
    with torch.inference_mode():
        for sequence in sequences:
            ids = torch.tensor([[*sequence.prompt, *sequence.reply]], device=loaded[0].device)
            logits = loaded[0](input_ids=ids, logits_to_keep=len(sequence.reply) + 1).logits[0, :-1].float()  # (T, V)
            own = logits.gather(1, ids[0, -len(sequence.reply) :, None]).squeeze(1)
            found.append((logits.max(dim=1).values - own).tolist())
    loaded.clear()
    free()
    return found
