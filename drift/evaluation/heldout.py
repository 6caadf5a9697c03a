"""For logs without a known truth: what the policy thinks of held-out feedback, and what it says to held-out prompts. No utility.

Records are split by conversation. A held-out pair is a disliked reply and the one given after the complaint (better on the
whole, not always). Its margin is how much more the policy prefers the later reply than the start model did, in nats. More is
better in the first four metrics: of a log that holds complaints alone, the headline is how much the disliked replies lost. The
others are of fresh replies to some held-out prompts: the same prompts and noise for every policy, so that they can be read side
by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from drift.data.requests import words
from drift.errors import UserError
from drift.evaluation import outlook, replies
from drift.evaluation.metric import metric
from drift.parts import Ask, Measured
from drift.records import Prompt, Record, Reply, digest

Sums = dict[tuple[str, str], float]  # (record's key, "dsat", "sat" or "revised") -> summed log-prob of that reply, in nats
OF: tuple[Literal["policy", "start"], ...] = ("policy", "start")


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """`share`: of the conversations, held out by their hash. `max_records`: how many held-out records are scored at most.
    `num_sampled_prompts`: how many of their prompts get a fresh reply (0: none)."""

    share: float
    max_records: int
    num_sampled_prompts: int

    meanings: ClassVar[dict[str, str]] = {
        "margin against start (nats)": "how much more than the start model the policy prefers the reply given after a complaint to "
        "the disliked one: log-probability of the whole reply, in nats (0.7 nats: twice as likely); above 0 is better",
        "pair accuracy": "share of those pairs whose margin is above 0, of 0 to 1; half by chance",
        "chosen log-prob per token": "of the liked and later replies, in nats a token; higher: they are more likely",
        "log-prob lost per disliked token": "against the start model, in nats a token; above 0: they are less likely now",
    }
    noise_seed: ClassVar[int] = 0  # one for all runs, as a log has none

    @property
    def samples(self) -> bool:
        return self.num_sampled_prompts > 0

    def prompts(self) -> list[Prompt]:
        """None of its own: it asks held-out ones."""
        return []

    def check(self) -> None:
        if not 0 < self.share < 1 or self.max_records < 1 or self.num_sampled_prompts < 0:
            raise UserError(
                "evaluation=heldout: expected share between 0 and 1, max_records at least 1 and num_sampled_prompts at least 0."
            )

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out), no conversation in both."""
        held = {r.conversation for r in records if int(digest(r.conversation)[:8], 16) / 16**8 < self.share}
        return [r for r in records if r.conversation not in held], [r for r in records if r.conversation in held]

    def outlook(self, records: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
        """Before anything is trained: how much is held out, how many comparable pairs it has, what they could show, what helps."""
        used = self._used(held_out)
        pairs = [record for record in used if is_pair(record)]
        of_all = sum(map(is_pair, [*records, *held_out]))
        said = (
            f"Held out: {len(used)} of {len(records) + len(held_out)} records (evaluation.heldout.share={self.share:g}). With a "
            f"disliked reply and a better one to the same prompt, which is what the margin compares: {len(pairs)}."
        )
        if len(used) < len(held_out):
            said += (
                f" Another {len(held_out) - len(used)} are held out and not scored: evaluation.heldout.max_records={len(held_out)}."
            )
        if not of_all:
            return [said, "No record of this log has both: likelihoods of liked or disliked replies stand in for a margin."]
        conversations = len({record.conversation for record in pairs})
        power, *advice = outlook.sentences(pairs=len(pairs), conversations=conversations, of_all=of_all, share=self.share)
        return [said, power, *(advice if len(used) == len(held_out) else [])]

    def key(self, held_out: Sequence[Record]) -> dict[str, Any]:
        used = self._used(held_out)
        records = [[r.key, r.label, r.revised, r.ended, r.conversation] for r in used]
        return {"records": records, "sampled": len(self._asked(used))}

    def measure(self, ask: Ask, held_out: Sequence[Record]) -> Measured:
        """Rows: the fresh replies beside what the log has."""
        used = self._used(held_out)
        if not used:
            raise UserError(f"No record was held out (evaluation.heldout.share={self.share}): use more records or a larger share.")
        label = "replies to held-out prompts"
        drawn = list(ask.draw(self._asked(used), lambda record: [record.prompt], first_sample=0, label=label))
        metrics = logged_metrics(ask, used)
        return Measured(
            headline=next(name for name, found in metrics.items() if found["per_item"]),
            metrics=metrics,
            drawn=drawn,
            rows=[as_row(record, reply) for record, (reply,) in drawn],
            conversations={record.key: record.conversation for record in used},
        )

    def _used(self, held_out: Sequence[Record]) -> list[Record]:
        return sorted(held_out, key=lambda record: record.key)[: self.max_records]

    def _asked(self, used: Sequence[Record]) -> list[Record]:
        """The first record of each prompt that gets a fresh reply."""
        first = {digest(list(record.prompt)): record for record in reversed(used)}
        return list(first.values())[::-1][: self.num_sampled_prompts]


def logged_metrics(ask: Ask, records: Sequence[Record]) -> dict[str, Any]:
    """The metrics of the log's own replies."""
    texts: dict[tuple[str, str], tuple[Prompt, str, bool]] = {}
    for record in records:
        texts[record.key, record.label] = (record.prompt, record.reply, record.ended)
        if is_pair(record):
            texts[record.key, "revised"] = (record.prompt, record.revised or "", True)
    now, before = (ask.logprobs(list(texts.values()), of=of, label="held-out replies") for of in OF)
    known = {name: (one, other) for name, one, other in zip(texts, now, before, strict=True) if one and other}
    return of_logprobs(
        {name: one.nats for name, (one, _) in known.items()},
        {name: other.nats for name, (_, other) in known.items()},
        {name: one.num_tokens for name, (one, _) in known.items()},
    )


def of_logprobs(now: Sums, before: Sums, lengths: dict[tuple[str, str], int]) -> dict[str, Any]:
    """The metrics of the replies' log-probs under the policy (`now`) and under the start model, and of their numbers of tokens."""
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
    """Whether the log has a disliked reply and a better one to this prompt."""
    return record.label == "dsat" and bool(record.revised)


def as_row(record: Record, reply: Reply) -> dict[str, Any]:
    """A fresh reply, and what the log has to the same prompt."""
    return {
        "prompt": list(record.prompt), "reply": reply.text, "ended": reply.ended, "words": len(words(reply.text)),
        "distinct-2": round(replies.distinct2([reply.text]), 3), "logged": record.reply, "label": record.label,
        "feedback": record.feedback,
    }  # fmt: skip
