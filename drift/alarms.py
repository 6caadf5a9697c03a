"""Signs that training goes wrong, watched for while it runs: each is named, with its numbers, in console, logger and report.

Training: the chosen replies' log-probability falls below the reference's, the entropy of the tokens of both replies collapses.
Sampling: replies copy the one they are paired with or talk about the feedback; chosen replies are cut off, mostly or more often
than the rejected ones, or are much longer than the log's: what differs between chosen and rejected is what is learnt.
Evaluation, against the start model, where the evaluation samples replies: length drifts, word pairs repeat, ends are missing,
perplexity under the start model rises. Every threshold may be null: not watched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any, Literal

from drift.errors import UserError
from drift.records import Example, Record

WINDOW = 4  # steps over which training's metrics are averaged
Rows = list[dict[str, float]]
OF_EVALUATION = {
    "length_ratio": "words",
    "distinct2_share": "distinct-2",
    "missing_ends": "missing ends",
    "perplexity_ratio": "perplexity under start",
}  # alarm -> the metric that it needs
TO_DO = {
    "chosen_shift": "lower train.learning_rate, or raise objective.nll.weight",
    "entropy_share": "lower train.learning_rate, or raise objective.nll.weight",
    "copied_share": "raise sampler.temperature, or set filters.echo=drop",
    "cut_share": "raise sampler.max_new_tokens, or set filters.truncated=drop",
    "cut_excess": "raise sampler.max_new_tokens, or set filters.truncated=drop",
    "chosen_length_ratio": "set sampler.max_new_tokens to what the log's replies need and filters.truncated=drop",
    "length_ratio": "lower train.learning_rate, or objective=[dpo_norm,nll], which is per token",
    "distinct2_share": "lower train.learning_rate or iterations",
    "missing_ends": "set filters.truncated=drop, or raise sampler.max_new_tokens",
    "perplexity_ratio": "lower train.learning_rate, or raise objective.nll.weight",
}  # alarm -> the settings to try


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """`action`: stop ends the run (what is finished stays). `chosen_shift`: log-probability of a chosen token against the
    reference, in nats; less raises the alarm. `entropy_share`: of the iteration's first steps. `copied_share`: of candidate pairs.
    `cut_share`: of chosen replies, cut off by the length limit. `cut_excess`: how much more often than rejected ones, as a share of
    the pairs. `chosen_length_ratio`: median words of the chosen replies to those of the log's. `length_ratio`: longer or shorter
    than the start model's replies by this factor. `distinct2_share`: of the start model's. `missing_ends`: more than the start
    model, as a share of replies. `perplexity_ratio`: to the start model's own replies."""

    action: Literal["warn", "stop"]
    chosen_shift: float | None
    entropy_share: float | None
    copied_share: float | None
    cut_share: float | None
    cut_excess: float | None
    chosen_length_ratio: float | None
    length_ratio: float | None
    distinct2_share: float | None
    missing_ends: float | None
    perplexity_ratio: float | None

    def check(self) -> None:
        for name, lowest in (("length_ratio", 1.0), ("chosen_length_ratio", 1.0), ("perplexity_ratio", 1.0)):
            if (value := getattr(self, name)) is not None and not value > lowest:
                raise UserError(f"alarms.{name}={value}: expected above {lowest:g}, or null.")

    def watched(self) -> list[str]:
        """The names of the alarms that are on."""
        return [item.name for item in fields(self) if item.name != "action" and getattr(self, item.name) is not None]

    def in_training(self, rows: Rows) -> dict[str, str]:
        """Alarm -> what was measured, in an iteration's steps so far: its first ones and its last ones are looked at."""
        if len(rows) < WINDOW:
            return {}
        found = {}
        now, before = rows[-WINDOW:], mean(rows[:WINDOW], "entropy")
        shift, entropy = mean(now, "chosen_shift"), mean(now, "entropy")
        limit, share = self.chosen_shift, self.entropy_share
        if limit is not None and shift is not None and not shift >= limit:  # `not … >=`: nan raises the alarm
            found["chosen_shift"] = (
                f"chosen_shift is {shift:.2f}, the limit {limit:g}: the log-probability of a token of the chosen "
                "replies against the reference, in nats"
            )
        if share is not None and entropy is not None and before is not None and not entropy >= share * before:
            found["entropy_share"] = f"entropy fell from {before:.2f} to {entropy:.2f} nats"
        return found

    def in_sampling(self, counts: dict[str, int]) -> dict[str, str]:
        """As above, of the counts of an iteration's candidate pairs (see examples/filters.py)."""
        found, cut = {}, counts["kept_truncated"]
        copies = sum(counts[name] for name in ("identical", "copied", "echo", "kept_echo"))
        if self.copied_share is not None and copies > self.copied_share * counts["seen"]:
            found["copied_share"] = f"{copies} of {counts['seen']} fresh replies are copies or talk about the feedback"
        if self.cut_share is not None and cut > self.cut_share * counts["used"]:
            found["cut_share"] = (
                f"{cut} of {counts['used']} chosen replies were cut off by the length limit, which teaches the policy not to "
                f"end. To do: {TO_DO['cut_share']}"
            )
        return found

    def in_examples(self, examples: Sequence[Example], log: Sequence[Record]) -> dict[str, str]:
        """As above, of an iteration's examples, and of the records that they were made from."""
        found = {}
        sides = {good: [reply for example in examples for reply in example.side(good)] for good in (True, False)}
        cut = {good: sum(not reply.ended for reply in replies) for good, replies in sides.items()}
        if self.cut_excess is not None and sides[False] and cut[True] - cut[False] > self.cut_excess * len(examples):
            found["cut_excess"] = (
                f"{cut[True]} of {len(sides[True])} chosen replies were cut off by the length limit, and {cut[False]} of the "
                f"rejected ones, so the policy learns not to end its replies. To do: {TO_DO['cut_excess']}"
            )
        words = median(len(reply.text.split()) for reply in sides[True]) if sides[True] else 0
        usual = median(len(record.reply.split()) for record in log)
        if self.chosen_length_ratio is not None and words > self.chosen_length_ratio * usual:
            found["chosen_length_ratio"] = (
                f"half of the chosen replies have {words:g} words or more, half of the log's {usual:g}: the policy "
                f"learns to be long. To do: {TO_DO['chosen_length_ratio']}"
            )
        return found

    def in_evaluation(self, metrics: Mapping[str, float | None], start: Mapping[str, float | None]) -> dict[str, str]:
        """As above, of the values of an evaluated policy's metrics and of the start model's. `fine`: written so that nan is not."""
        found = {}

        def watch(alarm: str, fine: Any) -> None:
            metric, limit = OF_EVALUATION[alarm], getattr(self, alarm)
            now, then = metrics.get(metric), start.get(metric)
            if None not in (limit, now, then) and not fine(now, then, limit):
                found[alarm] = f"{metric} {now:.3g}, the start model's {then:.3g}"

        watch("length_ratio", lambda now, then, most: then / most <= now <= then * most)
        watch("distinct2_share", lambda now, then, least: now >= then * least)
        watch("missing_ends", lambda now, then, most: now <= then + most)
        watch("perplexity_ratio", lambda now, then, most: now <= then * most)
        return found


def mean(rows: Rows, name: str) -> float | None:
    """Over the steps that measured it; None without any."""
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else None
