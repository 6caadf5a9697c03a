"""Signs that training goes wrong, watched for while it runs: each is named, with its numbers, in console, logger and report.

Training: the chosen replies' log-probability falls below the reference's, the entropy of their tokens collapses. Sampling: replies
copy the logged one or talk about the feedback. Evaluation, against the start model: length drifts, word pairs repeat, ends are
missing, perplexity under the start model rises. Every threshold may be null: not watched.
"""

from dataclasses import dataclass
from typing import Any, Literal

from drift.errors import UserError

WINDOW = 4  # steps over which training's metrics are averaged
Rows = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """`action`: stop ends the run (what is finished stays). `chosen_fall`: nats a token below the reference. `entropy_share`: of
    the iteration's first steps. `copied_share`: of candidate pairs. `length_ratio`: longer or shorter than the start model's
    replies by this factor. `distinct2_share`: of the start model's. `missing_ends`: more than the start model, as a share of
    replies. `perplexity_ratio`: to the start model's own replies."""

    action: Literal["warn", "stop"]
    chosen_fall: float | None
    entropy_share: float | None
    copied_share: float | None
    length_ratio: float | None
    distinct2_share: float | None
    missing_ends: float | None
    perplexity_ratio: float | None

    def check(self) -> None:
        for name, lowest in (("length_ratio", 1.0), ("perplexity_ratio", 1.0)):
            if (value := getattr(self, name)) is not None and value <= lowest:
                raise UserError(f"alarms.{name}={value}: expected above {lowest:g}, or null.")

    def in_training(self, rows: Rows) -> dict[str, str]:
        """Alarm -> what was seen, in an iteration's steps so far."""
        if len(rows) < WINDOW:
            return {}
        first, now = rows[:WINDOW], rows[-WINDOW:]
        found, fall, entropy, before = {}, -mean(now, "chosen_shift"), mean(now, "entropy"), mean(first, "entropy")
        if self.chosen_fall is not None and fall > self.chosen_fall:
            found["chosen_fall"] = f"chosen replies lost {fall:.2f} nats a token against the reference"
        if self.entropy_share is not None and entropy < self.entropy_share * before:
            found["entropy_share"] = f"entropy fell from {before:.2f} to {entropy:.2f} nats"
        return found

    def in_sampling(self, counts: dict[str, int]) -> dict[str, str]:
        """As above, of the counts of an iteration's candidate pairs (see method/filters.py)."""
        copies = sum(counts[name] for name in ("identical", "copied", "echo", "kept_echo"))
        if self.copied_share is None or copies <= self.copied_share * counts["seen"]:
            return {}
        return {"copied_share": f"{copies} of {counts['seen']} fresh replies are copies or talk about the feedback"}

    def in_evaluation(self, metrics: dict[str, Any], start: dict[str, Any]) -> dict[str, str]:
        """As above, of an evaluated policy's metrics and the start model's."""
        found = {}

        def beyond(alarm: str, metric: str, limit: float | None, over: Any) -> None:
            values = [one.get(metric, {}).get("value") for one in (metrics, start)]
            if limit is not None and None not in values and over(values[0], values[1], limit):
                found[alarm] = f"{metric} {values[0]:.3g}, the start model's {values[1]:.3g}"

        beyond("length_ratio", "words", self.length_ratio, lambda now, then, most: not then / most <= now <= then * most)
        beyond("distinct2_share", "distinct-2", self.distinct2_share, lambda now, then, least: now < then * least)
        beyond("missing_ends", "missing ends", self.missing_ends, lambda now, then, most: now > then + most)
        beyond("perplexity_ratio", "perplexity under start", self.perplexity_ratio, lambda now, then, most: now > then * most)
        return found


def mean(rows: Rows, name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
