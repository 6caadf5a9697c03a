"""Utility on the simulated deployment: share of prompts on unseen topics whose request is met by a sound reply on topic.

Beside it what a collapse shows in first: length, distinct-2, on-topic share, missing ends, perplexity under the start model.
The noise of the replies is that of `data.seed`: the same for every method, seed and iteration.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from drift.data.requests import verify
from drift.engine.ask import Ask
from drift.errors import UserError
from drift.evaluation import replies
from drift.evaluation.metric import metric
from drift.evaluation.replies import means
from drift.identity import identity, named
from drift.model.policy import Policy
from drift.records import Record, Reply, write_json, write_jsonl
from drift.store import Stage, Store

VERSION = 3


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """`split`: test is what is reported; tune on validation. `num_samples`: replies a prompt. `num_perplexity_prompts`: of how
    many prompts the first reply is scored under the start model (0: none). `data`: the deployment."""

    split: Literal["validation", "test"]
    num_prompts: int
    num_samples: int
    num_perplexity_prompts: int
    data: Any

    meanings: ClassVar[dict[str, str]] = {
        "utility": "share of test prompts whose request is met by a sound reply on topic, of 0 to 1",
        "request met": "share of replies that do what was asked for, of 0 to 1",
        "on topic": "share of replies about what was asked, of 0 to 1",
    } | replies.MEANINGS

    def check(self) -> None:
        if not hasattr(self.data, "tasks"):
            raise UserError("evaluation=deployment needs data=deployment. For logs without a known truth use evaluation=heldout.")
        if min(self.num_prompts, self.num_samples) < 1:
            raise UserError("evaluation.num_prompts and evaluation.num_samples must be at least 1.")
        self.data.tasks(self.split, self.num_prompts)

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out): its prompts are on other topics, so the whole log is for training."""
        return records, []

    def outlook(self, records: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
        """Nothing to say: the number of prompts is a setting, not what a log happens to hold."""
        return []

    def stage(self, store: Store, sampler: Any, train: Any, policy: Policy, start: Policy, held_out: Sequence[Record]) -> Stage:
        """`scores.json` and `replies.jsonl` (every reply with its verdict)."""

        def work(progress: Path, output: Path) -> dict[str, Any]:
            tasks = self.data.tasks(self.split, self.num_prompts)
            with Ask(sampler=sampler, policy=policy, store=store, seed=self.data.seed, purpose="evaluation", iteration=0) as ask:
                drawn = list(
                    ask.draw(tasks, lambda task: [task.prompt] * self.num_samples, first_sample=0, label="evaluation replies")
                )
            if not drawn:
                raise UserError("No evaluation prompt fits sampler.max_prompt_tokens.")
            scored = drawn[: self.num_perplexity_prompts]
            write_json(output / "scores.json", self.scores(drawn, replies.perplexity(scored, train, start)))
            write_jsonl(
                output / "replies.jsonl",
                [
                    {"prompt": task.prompt, "truth": task.truth, "reply": reply.text, "ended": reply.ended}
                    | asdict(verdict)
                    | {"useful": verdict.useful}
                    for task, said in drawn
                    for reply in said
                    for verdict in [verify(task.truth, reply.text)]
                ],
            )
            return ask.drawn

        own = {name: getattr(self, name) for name in ("split", "num_prompts", "num_samples", "num_perplexity_prompts")}
        settings = {
            "evaluation": named(self),
            "sampler": identity(sampler),
            "data": self.data.tasks_key(),
            "dtype": train.dtype(),
        } | own
        inputs = {"policy": policy.fingerprint, "start": start.fingerprint}
        return store.run("evaluate", work, version=VERSION, settings=settings, inputs=inputs)

    def scores(self, drawn: Sequence[tuple[Any, list[Reply]]], perplexity: float | None) -> dict[str, Any]:
        """All metrics of the drawn replies."""
        verdicts = {task.key: [verify(task.truth, reply.text) for reply in said] for task, said in drawn}
        return {
            "headline": "utility",
            "metrics": {
                "utility": metric(means(verdicts, lambda verdict: verdict.useful)),
                "request met": metric(means(verdicts, lambda verdict: verdict.met)),
                "on topic": metric(means(verdicts, lambda verdict: verdict.on_topic)),
            }
            | replies.measure(drawn, perplexity),
        }
