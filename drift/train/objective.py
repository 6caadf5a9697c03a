"""The losses, as pure functions of `(B,)` tensors: log-ratios log(pi / pi_ref) of the chosen and the rejected replies, sums over
tokens in nats, and their lengths in tokens.

An optimiser step's loss is a weighted sum of them. The official DRIFT configuration is sigmoid + a * nll, in the form DPO + a * NLL
that `rpo_alpha` means in TRL >= 0.10 (before, it was NLL + a * DPO: not copied).
"""

from torch import Tensor
from torch.nn.functional import logsigmoid, relu


def sigmoid(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """DPO, arXiv 2305.18290, eq. 7: -log sigmoid(beta * margin); ln 2 where policy and reference agree."""
    return -logsigmoid(beta * (chosen - rejected))


def hinge(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """SLiC's, arXiv 2309.06657, eq. 10, on DPO's margin."""
    return relu(1 - beta * (chosen - rejected))


def robust(chosen: Tensor, rejected: Tensor, beta: float, label_noise: float) -> Tensor:
    """Unbiased under a share of flipped labels, arXiv 2403.00409, eq. 10."""
    margin = beta * (chosen - rejected)
    return (label_noise * logsigmoid(-margin) - (1 - label_noise) * logsigmoid(margin)) / (1 - 2 * label_noise)


def ipo(chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, beta: float) -> Tensor:
    """arXiv 2310.12036, eq. 17, on log-ratios per token, as TRL computes it (its authors' form)."""
    return (chosen / chosen_tokens - rejected / rejected_tokens - 1 / (2 * beta)) ** 2


def sigmoid_norm(chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, beta: float) -> Tensor:
    """DPO on log-ratios per token (Tulu 3, arXiv 2411.15124, eq. 6): long replies weigh no more than short ones."""
    return -logsigmoid(beta * (chosen / chosen_tokens - rejected / rejected_tokens))


def dpop(chosen: Tensor, rejected: Tensor, beta: float, penalty: float) -> Tensor:
    """DPO-Positive, arXiv 2402.13228, eq. 3: a chosen reply that became less likely is taken off the margin."""
    return -logsigmoid(beta * (chosen - rejected - penalty * relu(-chosen)))


def nll(chosen_logp: Tensor, num_chosen_tokens: int) -> Tensor:
    """Scalar: negative log-likelihood per token over all chosen tokens of the optimiser step (not per pair, as in TRL)."""
    return -chosen_logp.sum() / num_chosen_tokens
