"""The loss, as pure functions of four `(B,)` tensors of reply log-probabilities (sums over tokens, nats).

DPO (arXiv 2305.18290, eq. 7) plus a weighted negative log-likelihood of the chosen replies, in the form DPO + a * NLL; the
official DRIFT configuration's `rpo_alpha` means the same in TRL >= 0.10 (and NLL + a * DPO before: not copied).
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def margins(policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor) -> Tensor:
    """`(B,)` log-ratio differences: (log pi/pi_ref of chosen) - (log pi/pi_ref of rejected)."""
    return (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)


def dpo(margin: Tensor, beta: float) -> Tensor:
    """`(B,)` losses -log sigmoid(beta * margin), eq. 7; ln 2 where policy and reference agree."""
    return -logsigmoid(beta * margin)


def nll(policy_chosen: Tensor, num_chosen_tokens: int) -> Tensor:
    """Scalar: negative log-likelihood per token over all chosen tokens of the optimiser step (not per pair, as in TRL)."""
    return -policy_chosen.sum() / num_chosen_tokens
