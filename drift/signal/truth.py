"""What theory expects of a method where the truth is known: the share of good replies on either side decides.

Let p be the chance that a fresh reply is good. Over fresh replies the mean gradient is 0: good ones have the mean (1 - p) * c, and
bad ones -p * c, with one contrast c, the good-over-bad gradient. A reply that is good with probability q then adds (q - p) * c
times its weight. Over prompts of different difficulty, the prompts of disliked replies have the success a = E[p (1 - p)] / (1 - p),
those of liked ones 1 - b, with b = E[p (1 - p)] / p. So DRIFT's pair is worth a (1 - f_D) - b f_D contrasts, SPIN's and a liked
reply b (1 - f_S) - a f_S, with f_D and f_S the shares of wrong complaints and wrong praise; a random reply of the policy 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drift.records import Labelled


@dataclass(frozen=True, kw_only=True)
class Truth:
    """`p`: the share of good fresh replies; `spread`: E[p (1 - p)] over prompts; `logged`: label -> the share of good replies among
    the log's with this label."""

    p: float
    spread: float
    logged: Mapping[str, float]

    @property
    def a(self) -> float | None:
        """The chance that a fresh reply is good where a logged one was bad."""
        return self.spread / (1 - self.p) if self.p < 1 else None

    @property
    def b(self) -> float | None:
        """The chance that a fresh reply is bad where a logged one was good."""
        return self.spread / self.p if self.p > 0 else None

    def fresh(self, label: str) -> float:
        """The chance that a fresh reply to the prompt of a logged reply with this label is good."""
        assert self.a is not None and self.b is not None
        q = self.logged[label]
        return q * (1 - self.b) + (1 - q) * self.a


def truth(good: Sequence[Sequence[float]], logged: Mapping[str, Sequence[float]]) -> Truth:
    """`good`: for each prompt, 1 or 0 for each of its K fresh replies. E[p (1 - p)] is estimated without bias: a prompt with n good
    ones counts n (K - n) / (K (K - 1)). `logged`: label -> 1 or 0 for each of the log's replies."""
    counts = [(sum(row), len(row)) for row in good]
    return Truth(
        p=sum(n for n, _ in counts) / sum(k for _, k in counts),
        spread=sum(n * (k - n) / (k * (k - 1)) for n, k in counts) / len(counts),
        logged={label: sum(values) / len(values) for label, values in logged.items()},
    )


def expected_share(
    known: Truth,
    weights: Sequence[Sequence[float]],
    replies: Sequence[Sequence[Labelled]],
    labels: Sequence[str],
    verdicts: Sequence[Sequence[float]] | None,
) -> float | None:
    """How many contrasts an example is worth, on average: sum of weight * (q - p of its prompt) over its replies. `labels`: of the
    records that the examples were made from. `verdicts`: 1 or 0 for every reply, used for fresh replies if a judge chose them;
    otherwise None, and they are like any fresh reply. None: every fresh reply is good, or none."""  # fmt: skip
    if known.a is None or known.b is None:
        return None
    total = 0.0
    for i, (row, label) in enumerate(zip(replies, labels, strict=True)):
        for k, reply in enumerate(row):
            if not reply.fresh:
                q = known.logged[label]
            else:
                q = known.fresh(label) if verdicts is None else verdicts[i][k]
            total += weights[i][k] * (q - known.fresh(label))
    return total / len(replies)
