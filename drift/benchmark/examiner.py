"""Puts a benchmark's questions to a model on an OpenAI-compatible server, and reads its answers by the benchmark's rule.

An answer without a verdict that can be read is a verdict of None, which the benchmark counts; a question without an answer ends the
run (or, with `without_answer=skip`, has the verdict None, too). Every answer is kept when it arrives (drift/engine/endpoint.py), so
a kill loses the requests under way at most, and no question is paid for twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from drift.benchmark.judged import JudgedBenchmark, Question
from drift.console import Progress
from drift.engine.answer import without_thoughts
from drift.engine.budget import Budget
from drift.engine.endpoint import Endpoint
from drift.engine.questions import limit, refuse_empty, say_unread

Items = Sequence[tuple[Any, Sequence[str]]]  # tasks with the replies to their turns


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """`setting`: where its evaluation stands in the config, for messages."""

    benchmark: JudgedBenchmark
    endpoint: Endpoint
    without_answer: Literal["stop", "skip"]
    group_size: int
    setting: str

    def key(self) -> dict[str, Any]:
        """A verdict does not depend on how many are asked for at once, or at which price."""
        asked = dict(self.benchmark.judge_settings)
        return {
            "benchmark": self.benchmark, "endpoint": self.endpoint.key(), "asked": asked, "without_answer": self.without_answer
        }  # fmt: skip

    @property
    def budget(self) -> Budget:
        return self.endpoint.budget

    def examine(self, items: Items, *, later: Items) -> list[list[Mapping[str, Any]]]:
        """For each task, and each of its questions, {"part", "verdict", "answer"}; see parts.py."""
        questions = self._questions(items)
        settings = dict(self.benchmark.judge_settings)
        if self.budget.first("estimate"):
            self.endpoint.announce(self._talks([*questions, *self._questions(later)]), **settings)
        open_ones = [one for asked in questions for one in asked if one.settled is None]
        label = f"asking {self.endpoint.model}"
        with Progress(label, total=len(open_ones), unit="questions") as bar:
            answers = self.endpoint.answers(self._talks(questions), bar.advance, advice="", **settings)
        if (num_empty := answers.count(None)) and self.without_answer == "stop":
            own = f"{settings['max_tokens']} tokens: ++{self.endpoint.setting}.fields.max_tokens=N allows more"
            limited = limit(self.endpoint.fields, self.endpoint.setting, own)
            refuse_empty(num_empty, len(answers), self.endpoint.url, self.setting, limited)
        read = [
            None if answer is None else self.benchmark.read(one, replace(answer, text=without_thoughts(answer.text)))
            for one, answer in zip(open_ones, answers, strict=True)
        ]
        texts = [None if answer is None else answer.text for answer in answers]
        unread = [text for text, verdict in zip(texts, read, strict=True) if verdict is None and text is not None]
        if unread and self.budget.first("unreadable"):
            say_unread(unread, len(answers))
        found = iter(zip(read, texts, strict=True))
        return [
            [_as_row(one, *((one.settled, None) if one.settled is not None else next(found))) for one in asked]
            for asked in questions
        ]

    def _questions(self, items: Items) -> list[list[Question]]:
        return [self.benchmark.questions(task, replies) for task, replies in items]

    def _talks(self, questions: Sequence[Sequence[Question]]) -> list[Any]:
        """The messages of all questions that need an answer."""
        return [one.messages for asked in questions for one in asked if one.settled is None]


def _as_row(question: Question, verdict: Any, answer: str | None) -> dict[str, Any]:
    return {"part": question.part, "verdict": verdict, "answer": answer}
