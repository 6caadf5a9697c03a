"""Alarms: signs that a run is going wrong, reported with their numbers on the console, in the logger and in the report.

In training: the log-probability of the chosen replies falls below the reference's; the entropy of the tokens collapses.
In sampling: replies copy their other reply or talk about the feedback; chosen replies are cut off, mostly or more often than the
rejected ones, or are much longer than the log's (the policy learns whatever differs between chosen and rejected replies).
In an evaluation that samples replies, against the start model: the length drifts, word pairs repeat, ends are missing, the
perplexity under the start model rises. A threshold of null turns an alarm off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any, Literal

from drift.errors import UserError
from drift.records import Example, Record

WINDOW = 4  # optimiser steps over which the metrics of training are averaged
Steps = list[dict[str, float]]  # the metrics of each step
METRIC_OF = {
    "length_ratio": "words",
    "distinct2_share": "distinct-2",
    "missing_ends": "missing ends",
    "perplexity_ratio": "perplexity under start",
}  # alarm -> the metric of an evaluation that it needs
NEVER = {
    **dict.fromkeys(("copied_share", "cut_share", "cut_excess", "missing_ends"), lambda limit: limit >= 1),
    **dict.fromkeys(("entropy_share", "distinct2_share"), lambda limit: limit <= 0),
}  # alarm -> limits that nothing exceeds
REMEDIES = {
    "chosen_shift": "lower train.learning_rate, or raise objective.nll.weight (objective=[…,nll])",
    "entropy_share": "lower train.learning_rate, or raise objective.nll.weight (objective=[…,nll])",
    "copied_share": "raise sampler.temperature, or set filters.echo=drop",
    "cut_share": "raise sampler.max_new_tokens, or set filters.truncated=drop",
    "cut_excess": "raise sampler.max_new_tokens, or set filters.truncated=drop",
    "chosen_length_ratio": "set sampler.max_new_tokens to what the log's replies need and filters.truncated=drop",
    "length_ratio": "lower train.learning_rate, or objective=[dpo_norm,nll], which is per token",
    "distinct2_share": "lower train.learning_rate or iterations",
    "missing_ends": "set filters.truncated=drop, or raise sampler.max_new_tokens",
    "perplexity_ratio": "lower train.learning_rate, or raise objective.nll.weight (objective=[…,nll])",
}  # alarm -> the settings to try


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """`action`: stop ends the run (finished stages stay). The thresholds, each null to turn its alarm off: `chosen_shift`:
    log-probability of a chosen token relative to the reference, in nats; a lower one raises the alarm. `entropy_share`: entropy as
    a share of that in the iteration's first steps. `copied_share`: copies, as a share of candidate examples. `cut_share`: share of
    examples with a chosen reply that the length limit cut off. `cut_excess`: by how much the share of chosen replies that were cut
    off is larger than that of rejected ones. `chosen_length_ratio`: median words of the chosen replies over those of the log's
    replies. `length_ratio`: factor by which replies are longer or shorter than the start model's. `distinct2_share`: distinct-2 as
    a share of the start model's. `missing_ends`: share of replies without an end, beyond the start model's. `perplexity_ratio`:
    perplexity over that of the start model's own replies."""

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
        for name, never in NEVER.items():
            if (value := getattr(self, name)) is not None and never(value):
                raise UserError(f"alarms.{name}={value} would never be raised: expected a share from 0 to 1, or null.")

    def active(self) -> list[str]:
        """The names of the alarms that are on."""
        return [item.name for item in fields(self) if item.name != "action" and getattr(self, item.name) is not None]

    def in_training(self, steps: Steps) -> dict[str, str]:
        """Alarm -> what was measured, from the steps of an iteration so far: its first `WINDOW` steps and its last ones."""
        if len(steps) < WINDOW:
            return {}
        raised = {}
        now, before = steps[-WINDOW:], mean(steps[:WINDOW], "entropy")
        shift, entropy = mean(now, "chosen_shift"), mean(now, "entropy")
        limit, share = self.chosen_shift, self.entropy_share
        if limit is not None and shift is not None and not shift >= limit:  # `not … >=`: NaN raises the alarm
            raised["chosen_shift"] = (
                f"chosen_shift is {shift:.2f}, below the limit {limit:g}: the mean log-probability of a token of the chosen "
                "replies relative to the reference, in nats"
            )
        if share is not None and entropy is not None and before is not None and not entropy >= share * before:
            raised["entropy_share"] = f"entropy fell from {before:.2f} to {entropy:.2f} nats"
        return raised

    def in_sampling(self, counts: dict[str, int]) -> dict[str, str]:
        """The same, from the counts of an iteration's candidate examples (see examples/filters.py)."""
        raised, cut = {}, counts["kept_truncated"]
        copies = sum(counts[name] for name in ("identical", "copied", "echo", "kept_echo"))
        if self.copied_share is not None and copies > self.copied_share * counts["seen"]:
            raised["copied_share"] = (
                f"in {copies} of {counts['seen']} candidate examples, a fresh reply is a copy or talks about the feedback"
            )
        if self.cut_share is not None and cut > self.cut_share * counts["used"]:
            raised["cut_share"] = (
                f"in {cut} of {counts['used']} examples, a chosen reply was cut off by the length limit, which teaches the policy "
                f"not to end its replies. What helps: {REMEDIES['cut_share']}"
            )
        return raised

    def in_examples(self, examples: Sequence[Example], log: Sequence[Record]) -> dict[str, str]:
        """The same, from an iteration's examples and the records that they were made from."""
        raised = {}
        sides = {good: [reply for example in examples for reply in example.side(good)] for good in (True, False)}
        cut = {good: sum(not reply.ended for reply in replies) for good, replies in sides.items()}
        share = {good: cut[good] / len(replies) for good, replies in sides.items() if replies}
        if self.cut_excess is not None and len(share) == 2 and share[True] - share[False] > self.cut_excess:
            raised["cut_excess"] = (
                f"{cut[True]} of {len(sides[True])} chosen replies were cut off by the length limit, and {cut[False]} of "
                f"{len(sides[False])} rejected ones, so the policy learns not to end its replies. What helps: "
                f"{REMEDIES['cut_excess']}"
            )
        chosen_words = median(len(reply.text.split()) for reply in sides[True]) if sides[True] else 0
        logged_words = median(len(record.reply.split()) for record in log)
        if self.chosen_length_ratio is not None and chosen_words > self.chosen_length_ratio * logged_words:
            raised["chosen_length_ratio"] = (
                f"the chosen replies have a median of {chosen_words:g} words, the log's replies {logged_words:g}: the policy "
                f"learns to write long replies. What helps: {REMEDIES['chosen_length_ratio']}"
            )
        return raised

    def in_evaluation(self, metrics: Mapping[str, float | None], start: Mapping[str, float | None]) -> dict[str, str]:
        """The same, from the metrics of a policy and of the start model. `passes` is written so that NaN raises the alarm."""
        raised = {}

        def check(alarm: str, passes: Any) -> None:
            metric, limit = METRIC_OF[alarm], getattr(self, alarm)
            now, then = metrics.get(metric), start.get(metric)
            if None not in (limit, now, then) and not passes(now, then, limit):
                raised[alarm] = f"{metric} is {now:.3g}, the start model's is {then:.3g}"

        check("length_ratio", lambda now, then, most: then / most <= now <= then * most)
        check("distinct2_share", lambda now, then, least: now >= then * least)
        check("missing_ends", lambda now, then, most: now <= then + most)
        check("perplexity_ratio", lambda now, then, most: now <= then * most)
        return raised


def mean(steps: Steps, name: str) -> float | None:
    """The mean of a metric over the steps that have it; None if none has."""
    values = [step[name] for step in steps if name in step]
    return sum(values) / len(values) if values else None
