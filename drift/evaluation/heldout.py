"""For logs without a known truth: the policy's log-probabilities of held-out replies, and its own replies to held-out prompts.

Records are split by conversation. A held-out pair is a disliked reply and the reply given after the complaint, which is usually
better, but not always. Its margin is how much more the policy prefers the later reply than the start model does, in nats. Higher
is better in the first four metrics. If the log has only complaints, the headline is the log-probability that the disliked replies
lost. The other metrics are about fresh replies to some held-out prompts, with the same prompts and noise for every policy, so that
a person can compare them side by side. There is no utility.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from drift.data.requests import words
from drift.errors import UserError
from drift.evaluation import outlook, replies
from drift.evaluation.metric import Measured, metric
from drift.parts import Ask
from drift.records import Prompt, Record, Reply, digest

Sums = dict[tuple[str, str], float]  # (record's key; "dsat", "sat" or "revised") -> summed log-prob of that reply, in nats
MODELS: tuple[Literal["policy", "start"], ...] = ("policy", "start")


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """`share`: the share of the conversations to hold out, chosen by their hash. `max_records`: the most held-out records that are
    used. `num_sampled_prompts`: the number of their prompts that get a fresh reply (0: none)."""

    share: float
    max_records: int
    num_sampled_prompts: int

    meanings: ClassVar[dict[str, str]] = {
        "margin against start (nats)": "how much more than the start model the policy prefers the reply given after a complaint to "
        "the disliked reply: difference of their log-probabilities, in nats (0.7 nats: twice as likely); above 0 is better",
        "pair accuracy": "share of these pairs whose margin is above 0, from 0 to 1; half by chance",
        "chosen log-prob per token": "log-probability of the liked and the later replies, in nats per token; higher is better",
        "log-prob lost per disliked token": "log-probability that the disliked replies lost compared with the start model, in nats "
        "per token; above 0 is better",
    }
    noise_seed: ClassVar[int] = 0  # the same for all runs: a log has no seed

    @property
    def samples(self) -> bool:
        return self.num_sampled_prompts > 0

    def prompts(self) -> list[Prompt]:
        """Empty: its prompts are those of held-out records."""
        return []

    def check(self) -> None:
        if not 0 < self.share < 1 or self.max_records < 1 or self.num_sampled_prompts < 0:
            raise UserError(
                "evaluation=heldout: expected share between 0 and 1, max_records at least 1 and num_sampled_prompts at least 0."
            )

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out), with no conversation in both. Silent users judged nothing that could be compared, so only
        conversations with a judged reply are held out, and of those the judged replies."""
        judged = [r for r in records if r.label != "silent"]
        held = {r.conversation for r in judged if int(digest(r.conversation)[:8], 16) / 16**8 < self.share}
        return [r for r in records if r.conversation not in held], [r for r in judged if r.conversation in held]

    def outlook(self, records: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
        """How much is held out, how many comparable pairs it has, what they could show, and which setting helps."""
        used = self._used(held_out)
        pairs = [record for record in used if is_pair(record)]
        all_pairs = sum(map(is_pair, [*records, *held_out]))
        counts = (
            f"Held out: {len(used)} of {len(records) + len(held_out)} records (evaluation.heldout.share={self.share:g}). "
            f"With a disliked reply and a better one to the same prompt, which the margin compares: {len(pairs)}."
        )
        if len(used) < len(held_out):
            counts += (
                f" Another {len(held_out) - len(used)} are held out but not used; evaluation.heldout.max_records={len(held_out)} "
                "would use all."
            )
        if not all_pairs:
            return [
                counts,
                "No record of this log has both, so the log-probabilities of liked or disliked replies replace the margin.",
            ]
        conversations = len({record.conversation for record in pairs})
        power, *advice = outlook.sentences(pairs=len(pairs), conversations=conversations, all_pairs=all_pairs, share=self.share)
        return [counts, power, *(advice if len(used) == len(held_out) else [])]

    def key(self, held_out: Sequence[Record]) -> dict[str, Any]:
        used = self._used(held_out)
        records = [[r.key, r.label, r.revised, r.ended, r.conversation] for r in used]
        return {"records": records, "sampled": len(self._sampled(used))}

    def measure(self, ask: Ask, held_out: Sequence[Record]) -> Measured:
        """Its `rows` are the fresh replies beside the logged ones."""
        used = self._used(held_out)
        if not used:
            raise UserError(f"No record was held out (evaluation.heldout.share={self.share}): use more records or a larger share.")
        label = "replies to held-out prompts"
        drawn = list(ask.draw(self._sampled(used), lambda record: [record.prompt], label=label))
        metrics = logged_metrics(ask, used)
        headline = next((name for name, measured in metrics.items() if measured["per_item"]), None)
        if headline is None:
            raise UserError(f"None of the {len(used)} held-out records can be rendered by the model's chat template.")
        return Measured(
            headline=headline,
            metrics=metrics,
            drawn=drawn,
            rows=[as_row(record, reply) for record, (reply,) in drawn],
            conversations={record.key: record.conversation for record in used},
        )

    def _used(self, held_out: Sequence[Record]) -> list[Record]:
        return sorted(held_out, key=lambda record: record.key)[: self.max_records]

    def _sampled(self, used: Sequence[Record]) -> list[Record]:
        """The records that get a fresh reply: the first one of each prompt."""
        first = {digest(list(record.prompt)): record for record in reversed(used)}
        return list(first.values())[::-1][: self.num_sampled_prompts]


def logged_metrics(ask: Ask, records: Sequence[Record]) -> dict[str, Any]:
    """The metrics of the logged replies."""
    texts: dict[tuple[str, str], tuple[Prompt, str, bool]] = {}
    for record in records:
        texts[record.key, record.label] = (record.prompt, record.reply, record.ended)
        if is_pair(record):
            texts[record.key, "revised"] = (record.prompt, record.revised or "", True)
    policy, start = (ask.logprobs(list(texts.values()), of=model, label="held-out replies") for model in MODELS)
    known = {name: (now, before) for name, now, before in zip(texts, policy, start, strict=True) if now and before}
    return of_logprobs(
        {name: now.nats for name, (now, _) in known.items()},
        {name: before.nats for name, (_, before) in known.items()},
        {name: now.num_tokens for name, (now, _) in known.items()},
    )


def of_logprobs(now: Sums, before: Sums, lengths: dict[tuple[str, str], int]) -> dict[str, Any]:
    """The metrics, from the log-probs of the replies under the policy (`now`) and the start model (`before`), and their lengths in
    tokens."""
    gain = {name: now[name] - before[name] for name in lengths}
    margin = {i: gain[i, "revised"] - gain[i, "dsat"] for i, kind in lengths if kind == "revised"}
    accuracy = {i: 0.5 if m == 0 else float(m > 0) for i, m in margin.items()}
    chosen = {i: now[i, kind] / length for (i, kind), length in lengths.items() if kind in ("sat", "revised")}
    lost = {i: (before[i, kind] - now[i, kind]) / length for (i, kind), length in lengths.items() if kind == "dsat"}
    return {
        "margin against start (nats)": metric(margin or None, digits=2),
        "pair accuracy": metric(accuracy or None),
        "chosen log-prob per token": metric(chosen or None),
        "log-prob lost per disliked token": metric(lost or None),
    }


def is_pair(record: Record) -> bool:
    """Whether the record has a disliked reply and a better one to the same prompt."""
    return record.label == "dsat" and bool(record.revised)


def as_row(record: Record, reply: Reply) -> dict[str, Any]:
    """A line of replies.jsonl: a fresh reply, and the log's reply to the same prompt with its feedback."""
    return {
        "prompt": list(record.prompt), "reply": reply.text, "ended": reply.ended, "words": len(words(reply.text)),
        "distinct-2": round(replies.distinct2([reply.text]), 3), "logged": record.reply, "label": record.label,
        "feedback": record.feedback,
    }  # fmt: skip
