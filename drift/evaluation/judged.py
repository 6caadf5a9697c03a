"""Benchmarks whose replies a judge scores: MT-Bench, AlpacaEval, Arena-Hard, WildBench (drift/benchmark has one file for each).

A policy answers the first turn of every task, then the second turns, if there are any; the judge is a model on an OpenAI-compatible
server. A task with a prompt that is too long for the sampler is left out and counted. A policy's thoughts (to "</think>") are not
shown to the judge. The noise of the replies is the same for all runs and policies."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from drift.benchmark.examiner import Examiner
from drift.benchmark.judged import Judged, JudgedBenchmark, turn_prompt
from drift.engine.answer import same_model, without_thoughts
from drift.engine.endpoint import Endpoint
from drift.errors import UserError
from drift.evaluation.metric import Measured, metric
from drift.evaluation.own_sampler import how, own_sampler
from drift.identity import identity
from drift.parts import Ask, Sampler
from drift.records import Prompt, Record, Reply, digest

OWN = ("temperature", "max_prompt_tokens", "max_new_tokens", "group_size")  # settings that replace the sampler's
NO_REPLY = "prompts without a reply"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A turn of a task: what a reply is drawn for."""

    key: str
    prompt: Prompt


@dataclass(frozen=True, kw_only=True)
class JudgedEvaluation:
    """`endpoint`: the judge. `num_prompts`: the size of the panel (null: all prompts). `temperature` (0: greedy),
    `max_prompt_tokens`, `max_new_tokens` and `group_size` replace the sampler's; `group_size` is also the number of tasks judged at
    once. `without_answer`: what to do if the judge answers without a text."""

    benchmark: JudgedBenchmark
    endpoint: Endpoint
    num_prompts: int | None
    temperature: float
    max_prompt_tokens: int
    max_new_tokens: int
    group_size: int
    without_answer: Literal["stop", "skip"]
    setting: str = field(init=False, compare=False, default="evaluation")  # where it stands in the config, for messages

    noise_seed: ClassVar[int] = 0  # the same for all runs
    samples: ClassVar[bool] = True

    def place(self, setting: str) -> None:
        object.__setattr__(self, "setting", setting)

    @property
    def meanings(self) -> Mapping[str, str]:
        lost = "number of prompts that are too long for the sampler, or that the chat template can't render; no score counts them"
        return {**self.benchmark.meanings, NO_REPLY: lost}

    def check(self) -> None:
        try:
            self.benchmark.check()
        except UserError as error:
            text = re.sub(r"\bbenchmark\.(\w+)", rf"{self.setting}.benchmark.\1", str(error))
            raise UserError(text if self.setting in text else f"{self.setting}: {text}") from None
        most = len(self.benchmark.tasks())
        if self.num_prompts is not None and not 1 <= self.num_prompts <= most:
            raise UserError(f"{self.setting}.num_prompts={self.num_prompts}: expected 1 to {most}, or null for all.")
        if self.temperature < 0 or min(self.max_prompt_tokens, self.max_new_tokens, self.group_size) < 1:
            raise UserError(f"{self.setting}: expected temperature >= 0, and {', '.join(OWN[1:])} at least 1.")

    def prompts(self) -> list[Prompt]:
        """All of them, whatever the panel: the whole benchmark may be asked when the run has ended."""
        return [task.prompt for task in self.benchmark.tasks()]

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out): its prompts are its own."""
        return records, []

    def outlook(self, records: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
        """What is asked and how, whose texts these are, and who judges."""
        title, published, judge = self.benchmark.title, self.benchmark.published_judge, self.endpoint
        most = len(self.benchmark.tasks())
        if same_model(judge.model, published):
            known = ", as in the published figures."
        else:
            known = f". The published figures were judged by {published}, so compare these with one another only."
        return [
            f"{title}: {self.num_prompts or most} of {most} prompts, answered {how(self.temperature, self.max_new_tokens)}. "
            f"Licence: {self.benchmark.licence}.",
            f"{title}: the judge is {judge.model} ({judge.url}){known}",
        ]

    def sampler(self, sampler: Sampler) -> Sampler:
        return own_sampler(self, OWN, sampler, self.setting)

    def key(self, held_out: Sequence[Record]) -> dict[str, Any]:
        """How replies are drawn is the sampler's part of the key."""
        return {"judged": identity(self._examiner()), "num_prompts": self.num_prompts}

    def measure(self, ask: Ask, held_out: Sequence[Record]) -> Measured:
        """Its `rows` are the replies; the last reply to a task has the verdicts on all of them."""
        panel = self.panel()
        drawn = self._draw(ask, panel)
        whole = [task for task in panel if len(drawn[task.key]) == 1 + len(task.follow_ups)]
        if not whole:
            raise UserError(
                f"None of the {len(panel)} prompts of {self.benchmark.title} got a reply: they are longer than "
                f"{self.setting}.max_prompt_tokens={self.max_prompt_tokens}, or the chat template can't render them."
            )
        replies = {task.key: [without_thoughts(reply.text).strip() for _, reply in drawn[task.key]] for task in whole}
        examined = ask.verdicts(
            self._examiner(), [(task, replies[task.key]) for task in whole], label=f"{self.benchmark.title} verdicts"
        )
        self._need_verdict(examined)
        found = {task.key: rows for task, rows in zip(whole, examined, strict=True)}
        judged = {
            task.key: Judged(task=task, replies=replies[task.key], verdicts=[row["verdict"] for row in found[task.key]])
            for task in self.benchmark.tasks()
            if task.key in found
        }
        lost = metric(None, value=float(len(panel) - len(whole)), digits=0)
        return Measured(
            headline=self.benchmark.headline,
            metrics={**self.benchmark.score(list(judged.values())), NO_REPLY: lost},
            drawn=[(turn, [reply]) for task in whole for turn, reply in drawn[task.key]],
            rows=[row for task in whole for row in self._rows(drawn[task.key], found[task.key], judged[task.key])],
            conversations={turn.key: task.key for task in whole if task.follow_ups for turn, _ in drawn[task.key]},
        )

    def panel(self) -> list[Any]:
        """The first tasks in an order that the hash of the prompt gives, so a small panel is part of every larger one."""
        return sorted(self.benchmark.tasks(), key=lambda task: digest(list(task.prompt)))[: self.num_prompts]

    def _draw(self, ask: Ask, panel: Sequence[Any]) -> dict[str, list[tuple[Turn, Reply]]]:
        """Task -> its turns with a reply each, up to the first one whose prompt is too long."""
        drawn: dict[str, list[tuple[Turn, Reply]]] = {task.key: [] for task in panel}
        for number in range(1 + max(len(task.follow_ups) for task in panel)):
            turns = {}
            for task in panel:
                if len(drawn[task.key]) == number <= len(task.follow_ups):
                    prompt = turn_prompt(task, [reply.text for _, reply in drawn[task.key]])
                    key = f"{task.key}, turn {number + 1}" if number else task.key
                    turns[key] = (task, Turn(key=key, prompt=prompt))
            asked, label = [turn for _, turn in turns.values()], f"{self.benchmark.title} replies"
            for turn, (reply,) in ask.draw(asked, lambda turn: [turn.prompt], label=label):
                drawn[turns[turn.key][0].key].append((turn, reply))
        return drawn

    def _need_verdict(self, examined: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Raises UserError if the judge has answered, but never with a verdict."""
        answered = [one["verdict"] for rows in examined for one in rows if one["answer"] is not None]
        if answered and all(verdict is None for verdict in answered):
            raise UserError(
                f"{self.benchmark.title}: none of the {len(answered)} answers of {self.endpoint.model} can be read, so there is no "
                f"score. They are kept in {self.endpoint.cache_dir}. Choose a model that keeps to the form it is asked for: "
                f"{self.setting}.endpoint.model=NAME."
            )

    def _examiner(self) -> Examiner:
        return Examiner(
            benchmark=self.benchmark, endpoint=self.endpoint, without_answer=self.without_answer, group_size=self.group_size,
            setting=self.setting,
        )  # fmt: skip

    def _rows(
        self, drawn: Sequence[tuple[Turn, Reply]], verdicts: Sequence[Mapping[str, Any]], judged: Judged
    ) -> list[dict[str, Any]]:
        """The lines of replies.jsonl for a task, one a turn."""
        rows = [{"prompt": list(turn.prompt), "reply": reply.text, "ended": reply.ended, "key": turn.key} for turn, reply in drawn]
        known = {"verdicts": list(verdicts), "judge": self.endpoint.model} | self.benchmark.facts(judged)
        return [*rows[:-1], rows[-1] | known]
