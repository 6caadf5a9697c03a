"""Utility on the simulated deployment: share of prompts on unseen topics whose request is met by a sound reply on topic.

Beside it what a collapse shows in first: length, distinct-2, on-topic share, missing ends, perplexity under the start model.
The noise of the replies is that of `data.seed`: the same for every method, seed and iteration.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from drift.data.requests import verify, words
from drift.errors import UserError
from drift.evaluation.metric import metric
from drift.model.policy import Policy, load_tokenizer
from drift.records import Record, Reply, write_json, write_jsonl
from drift.sampler.draw import Draw
from drift.store import Stage, Store

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """`split`: test is what is reported; tune on validation. `num_samples`: replies a prompt. `num_perplexity_prompts`: of how
    many prompts the first reply is scored under the start model (0: none). `data`: the deployment."""

    split: Literal["validation", "test"]
    num_prompts: int
    num_samples: int
    num_perplexity_prompts: int
    data: Any

    def check(self) -> None:
        if not hasattr(self.data, "tasks"):
            raise UserError("evaluation=deployment needs data=deployment. For logs without a known truth use evaluation=heldout.")
        if min(self.num_prompts, self.num_samples) < 1:
            raise UserError("evaluation.num_prompts and evaluation.num_samples must be at least 1.")
        self.data.tasks(self.split, self.num_prompts)

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out): its prompts are on other topics, so the whole log is for training."""
        return records, []

    def stage(self, store: Store, sampler: Any, train: Any, policy: Policy, start: Policy, held_out: Sequence[Record]) -> Stage:
        """`scores.json` and `replies.jsonl` (every reply with its verdict)."""

        def work(progress: Path, output: Path) -> dict[str, Any]:
            tasks = self.data.tasks(self.split, self.num_prompts)
            with Draw(sampler=sampler, policy=policy, store=store, seed=self.data.seed, purpose="evaluation", iteration=0) as draw:
                drawn = list(draw(tasks, lambda task: [task.prompt] * self.num_samples, first_sample=0, label="evaluation replies"))
            if not drawn:
                raise UserError("No evaluation prompt fits sampler.max_prompt_tokens.")
            scored = drawn[: self.num_perplexity_prompts]
            write_json(output / "scores.json", self.scores(drawn, self._perplexity(scored, train, start)))
            write_jsonl(
                output / "replies.jsonl",
                [
                    {"prompt": task.prompt, "truth": task.truth, "reply": reply.text, "ended": reply.ended}
                    | asdict(verdict)
                    | {"useful": verdict.useful}
                    for task, replies in drawn
                    for reply in replies
                    for verdict in [verify(task.truth, reply.text)]
                ],
            )
            return draw.drawn

        own = {name: getattr(self, name) for name in ("split", "num_prompts", "num_samples", "num_perplexity_prompts")}
        settings = {
            "evaluation": "deployment",
            "sampler": sampler.key(),
            "data": self.data.tasks_key(),
            "dtype": train.dtype(),
        } | own
        inputs = {"policy": policy.fingerprint, "start": start.fingerprint}
        return store.run("evaluate", work, version=VERSION, settings=settings, inputs=inputs)

    def scores(self, drawn: Sequence[tuple[Any, list[Reply]]], perplexity: float | None) -> dict[str, Any]:
        """All metrics of the drawn replies."""
        verdicts = {task.key: [verify(task.truth, reply.text) for reply in replies] for task, replies in drawn}
        replies = {task.key: replies for task, replies in drawn}
        return {
            "headline": "utility",
            "metrics": {
                "utility": metric(_means(verdicts, lambda verdict: verdict.useful)),
                "request met": metric(_means(verdicts, lambda verdict: verdict.met)),
                "on topic": metric(_means(verdicts, lambda verdict: verdict.on_topic)),
                "words": metric(_means(replies, lambda reply: len(words(reply.text))), digits=1),
                "distinct-2": metric(None, value=distinct2([reply.text for of in replies.values() for reply in of])),
                "missing ends": metric(_means(replies, lambda reply: not reply.ended)),
                "perplexity under start": metric(None, value=perplexity, digits=1),
            },
        }

    def _perplexity(self, drawn: Sequence[tuple[Any, list[Reply]]], train: Any, start: Policy) -> float | None:
        from drift.model.chat import NotAPrefix, prompt_ids, reply_ids
        from drift.train.reference import score_rows
        from drift.train.rows import Row

        tokenizer = load_tokenizer(start)
        rows = []
        for task, (first, *_) in drawn:
            with suppress(NotAPrefix):  # a reply that the template would rewrite is not what the policy said
                reply = reply_ids(tokenizer, task.prompt, first.text, ended=first.ended) if first.text else []
                rows += [Row(prompt=prompt_ids(tokenizer, task.prompt), reply=reply)] if reply else []
        if not rows:
            return None
        sums = score_rows(train, start, rows, "perplexity under the start model")
        return math.exp(-sum(sums) / sum(len(row.reply) for row in rows))


def _means(values: dict[str, list[Any]], of: Any) -> dict[str, float]:
    return {key: sum(float(of(value)) for value in row) / len(row) for key, row in values.items()}


def distinct2(texts: Sequence[str]) -> float:
    """Share of different word pairs among all word pairs of the texts (arXiv 1510.03055)."""
    lowered = [[word.lower() for word in words(text)] for text in texts]
    pairs = [pair for found in lowered for pair in zip(found, found[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
