"""For logs without a known truth: what the policy thinks of held-out feedback. No utility is claimed.

Records are split by conversation. A held-out pair is a disliked reply and the one given after the complaint (better on the
whole, not always). Its margin is how much more the policy prefers the later reply than the start model did, in nats. More is
better in all four metrics: of a log that holds complaints alone, the headline is how much the disliked replies lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.evaluation.metric import metric
from drift.model.policy import Policy, load_tokenizer
from drift.records import Record, digest, write_json
from drift.store import Stage, Store

VERSION = 4
Sums = dict[tuple[str, str], float]  # (record's key, "dsat", "sat" or "revised") -> summed log-prob of that reply, in nats


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """`share`: of the conversations, held out by their hash. `max_records`: how many held-out records are scored at most."""

    share: float
    max_records: int

    def check(self) -> None:
        if not 0 < self.share < 1 or self.max_records < 1:
            raise UserError("evaluation=heldout: expected share between 0 and 1 and max_records at least 1.")

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out), no conversation in both."""
        held = {r.conversation for r in records if int(digest(r.conversation)[:8], 16) / 16**8 < self.share}
        return [r for r in records if r.conversation not in held], [r for r in records if r.conversation in held]

    def stage(self, store: Store, sampler: Any, train: Any, policy: Policy, start: Policy, held_out: Sequence[Record]) -> Stage:
        """`scores.json`."""
        used = sorted(held_out, key=lambda record: record.key)[: self.max_records]
        if not used:
            raise UserError(f"No record was held out (evaluation.share={self.share}): use more records or a larger share.")

        def work(progress: Path, output: Path) -> dict[str, Any]:
            write_json(output / "scores.json", self.scores(store, used, train, policy, start))
            return {"records": len(used)}

        settings = {
            "evaluation": "heldout",
            "records": [[r.key, r.label, r.revised, r.ended] for r in used],
            "dtype": train.dtype(),
        }
        inputs = {"policy": policy.fingerprint, "start": start.fingerprint}
        return store.run("evaluate", work, version=VERSION, settings=settings, inputs=inputs)

    def scores(self, store: Store, records: Sequence[Record], train: Any, policy: Policy, start: Policy) -> dict[str, Any]:
        from drift.model.chat import prompt_ids, reply_ids
        from drift.train.reference import score_stage
        from drift.train.rows import Row

        tokenizer = load_tokenizer(start)
        rows: dict[tuple[str, str], Row] = {}
        for record in records:
            prompt = prompt_ids(tokenizer, record.prompt)
            rows[record.key, record.label] = Row(
                prompt=prompt, reply=reply_ids(tokenizer, record.prompt, record.reply, ended=record.ended)
            )
            if record.label == "dsat" and record.revised:
                revised = reply_ids(tokenizer, record.prompt, record.revised, ended=True)
                rows[record.key, "revised"] = Row(prompt=prompt, reply=revised)
        names = list(rows)
        now, before = (
            dict(zip(names, score_stage(store, train, scored, list(rows.values()), "held-out replies"), strict=True))
            for scored in (policy, start)
        )
        metrics = of_logprobs(now, before, {name: len(rows[name].reply) for name in names})
        return {"headline": next(name for name, found in metrics.items() if found["per_item"]), "metrics": metrics}


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
