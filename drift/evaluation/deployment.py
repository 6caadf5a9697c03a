"""Utility on the simulated deployment: the share of replies, on unseen topics, that are whole, sound, on topic and as requested.

The noise of the replies depends on `data.seed`: it is the same for every method, seed and iteration.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from drift.data.requests import verify
from drift.data.simulation import Simulation
from drift.errors import UserError
from drift.evaluation.metric import Measured, metric
from drift.evaluation.replies import means
from drift.identity import code
from drift.parts import Ask
from drift.records import Prompt, Record, Reply


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """`split`: report test, tune on validation. `num_samples`: replies per prompt. `data`: the deployment."""

    split: Literal["validation", "test"]
    num_prompts: int
    num_samples: int
    data: Simulation

    meanings: ClassVar[dict[str, str]] = {
        "utility": "share of replies to test prompts that meet the request, are on topic, sound and not cut off, from 0 to 1",
        "request met": "share of replies that do what was asked for, from 0 to 1",
        "on topic": "share of replies about the topic of the request, from 0 to 1",
    }
    samples: ClassVar[bool] = True

    def check(self) -> None:
        if not self.data.uses_policy:
            raise UserError("evaluation=deployment needs data=deployment. For logs without a known truth use evaluation=heldout.")
        if min(self.num_prompts, self.num_samples) < 1:
            raise UserError("evaluation.deployment.num_prompts and evaluation.deployment.num_samples must be at least 1.")
        self.data.tasks(self.split, self.num_prompts)

    @property
    def noise_seed(self) -> int:
        return self.data.seed

    def prompts(self) -> list[Prompt]:
        """All prompts of the split, so that records with the same prompts are not trained on."""
        return [task.prompt for task in self.data.tasks(self.split, self.num_prompts)]

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out). Its prompts are on other topics, so the whole log is for training."""
        return records, []

    def outlook(self, records: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
        """Empty: the number of prompts is a setting and does not depend on the log."""
        return []

    def key(self, held_out: Sequence[Record]) -> dict[str, Any]:
        """`checks`: the code of the verdicts, which is in another file."""
        settings = {name: getattr(self, name) for name in ("split", "num_prompts", "num_samples")}
        return {"data": self.data.tasks_key(), "checks": code(verify)} | settings

    def measure(self, ask: Ask, held_out: Sequence[Record]) -> Measured:
        """Its `rows` are every reply with its verdict."""
        tasks = self.data.tasks(self.split, self.num_prompts)
        prompts_of = lambda task: [task.prompt] * self.num_samples  # noqa: E731
        drawn = list(ask.draw(tasks, prompts_of, label="evaluation replies"))
        if not drawn:
            raise UserError("No evaluation prompt fits sampler.max_prompt_tokens.")
        rows = [as_row(task, reply) for task, replies in drawn for reply in replies]
        return Measured(headline="utility", metrics=of_replies(drawn), drawn=drawn, rows=rows, conversations={})


def of_replies(drawn: Sequence[tuple[Any, list[Reply]]]) -> dict[str, Any]:
    """The metrics of the verdicts on the drawn replies."""
    verdicts = {task.key: [verify(task.truth, reply.text, ended=reply.ended) for reply in replies] for task, replies in drawn}
    return {
        "utility": metric(means(verdicts, lambda verdict: verdict.useful)),
        "request met": metric(means(verdicts, lambda verdict: verdict.met)),
        "on topic": metric(means(verdicts, lambda verdict: verdict.on_topic)),
    }


def as_row(task: Any, reply: Reply) -> dict[str, Any]:
    """A line of replies.jsonl."""
    verdict = verify(task.truth, reply.text, ended=reply.ended)
    answer = {"prompt": task.prompt, "truth": task.truth, "reply": reply.text}
    return answer | asdict(verdict) | {"useful": verdict.useful}
