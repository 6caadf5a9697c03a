"""A judge that asks a language model on an OpenAI-compatible server, in one of two modes.

*Absolute*: each reply is graded by itself, on a scale. *Pairwise*: two replies to one prompt are compared, each pair in both
orders; where the two verdicts disagree, it is a tie. A reply's score is then its wins plus half of its ties over all pairs of the
item, so it does not depend on the order of the replies; it means nothing between prompts.

An answer without a verdict that can be read makes no score: it is counted, never guessed. Every answer is kept when it arrives
(drift/engine/endpoint.py), so a kill loses the requests under way at most, and no question is paid for twice. The server's URL
belongs to the key, because a model's name is whatever its operator calls it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar, Literal

from drift.console import Progress
from drift.engine.budget import Budget
from drift.engine.endpoint import Endpoint
from drift.engine.questions import limit, refuse_empty, say_unread
from drift.errors import UserError
from drift.identity import code
from drift.judge import questions
from drift.judge.questions import Form, Mode
from drift.parts import Grade
from drift.records import Prompt, Record, Reply

Verdict = Literal["A", "B", "tie"] | None
SWAPPED: dict[Any, Verdict] = {"A": "B", "B": "A", "tie": "tie", None: None}
POINTS = {"A": 1.0, "tie": 0.5, "B": 0.0}


@dataclass(frozen=True, kw_only=True)
class Llm:
    """`template`: the file with the question, or null (ours). `scale`: the highest grade (absolute). `structured`: the server is
    asked to enforce the form of the answers. `votes`: answers to each question. `max_text_chars`: of the conversation and of each
    reply. `without_answer`: what to do if an answer has no text. `group_size`: the number of items judged at once."""

    mode: Mode
    template: str | None
    scale: int
    structured: bool
    votes: int
    temperature: float
    max_answer_tokens: int
    max_text_chars: int
    without_answer: Literal["stop", "skip"]
    group_size: int
    endpoint: Endpoint
    setting: str = field(init=False, compare=False, default="judge")  # where it stands in the config, for messages

    needs_truth: ClassVar[bool] = False
    loads_nothing: ClassVar[Literal[True]] = True

    def place(self, setting: str) -> None:
        object.__setattr__(self, "setting", setting)

    def check(self) -> None:
        questions.load(self.template, self.mode, self.setting)
        least = {"scale": 2, "votes": 1, "max_answer_tokens": 1, "max_text_chars": 2, "group_size": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"{self.setting}.{name}={getattr(self, name)}: expected at least {value}.")
        if self.temperature < 0 or (self.votes > 1 and self.temperature == 0):
            raise UserError(
                f"{self.setting}.temperature={self.temperature:g}: expected more than 0 with votes={self.votes}, because "
                "otherwise all answers to a question are the same."
                if self.votes > 1
                else f"{self.setting}.temperature={self.temperature:g}: expected 0 or more."
            )

    def key(self) -> dict[str, Any]:
        """The text of the template, not its path. A score does not depend on how many are asked for at once, or at which price."""
        names = ("mode", "scale", "structured", "votes", "temperature", "max_answer_tokens", "max_text_chars", "without_answer")
        template = questions.load(self.template, self.mode, self.setting)
        kept = {name: getattr(self, name) for name in names}
        return {"endpoint": self.endpoint.key(), "template": template, "reading": code(Form)} | kept

    @property
    def label(self) -> str:
        how = "pairs in both orders" if self.mode == "pairwise" else f"grades from 1 to {self.scale}"
        return f"{self.endpoint.model}, {how}" + (f", {self.votes} votes" if self.votes > 1 else "")

    @property
    def budget(self) -> Budget:
        return self.endpoint.budget

    @property
    def compares(self) -> bool:
        """Whether it compares replies to one prompt, so that its scores mean nothing between prompts."""
        return self.mode == "pairwise"

    @contextmanager
    def open(self) -> Iterator[Grade]:
        """Loads nothing."""
        yield self.compare_all if self.compares else self.grade_all

    def grade_all(self, items: Sequence[tuple[Record, Sequence[Reply]]]) -> list[list[float | None]]:
        """A grade for each reply."""
        asked = [(record.prompt, [reply.text]) for record, replies in items for reply in replies]
        grades = iter(
            self._ask(asked, Form(name="score", values=range(1, self.scale + 1), structured=self.structured), questions.mean)
        )
        return [[next(grades) for _ in replies] for _, replies in items]

    def compare_all(self, items: Sequence[tuple[Record, Sequence[Reply]]]) -> list[list[float | None]]:
        """For each reply, its wins and half of its ties against the item's other replies; None if a verdict can't be read."""
        assert all(len(replies) > 1 for _, replies in items), "mode=pairwise compares: it needs two replies to a prompt, or more"
        pairs = [(i, pair) for i, (_, replies) in enumerate(items) for pair in combinations(range(len(replies)), 2)]
        both = self.orders([(items[i][0].prompt, items[i][1][one].text, items[i][1][other].text) for i, (one, other) in pairs])
        scores: list[list[float | None]] = [[0.0] * len(replies) for _, replies in items]
        for (i, pair), (one, swapped) in zip(pairs, both, strict=True):
            verdict = agreed(one, swapped)
            for number, winner in zip(pair, "AB", strict=True):
                before = scores[i][number]
                points = None if verdict is None else POINTS["tie" if verdict == "tie" else "A" if verdict == winner else "B"]
                scores[i][number] = None if before is None or points is None else before + points
        return scores

    def orders(self, pairs: Sequence[tuple[Prompt, str, str]]) -> list[tuple[Verdict, Verdict]]:
        """For each prompt with two replies, the verdict in the given order and in the other one. A is the reply shown first."""
        asked = [(prompt, list(shown)) for prompt, *texts in pairs for shown in (texts, texts[::-1])]
        verdicts = self._ask(asked, Form(name="verdict", values=questions.CHOICES, structured=self.structured), questions.majority)
        return list(zip(verdicts[::2], verdicts[1::2], strict=True))

    def _ask(self, asked: Sequence[tuple[Prompt, list[str]]], form: Form, combine: Callable[[Sequence[Any]], Any]) -> list[Any]:
        """The combined votes on each question."""
        template = questions.load(self.template, self.mode, self.setting)
        talks = [
            [{"role": "user", "content": questions.fill(template, form, prompt, replies, self.max_text_chars)}]
            for prompt, replies in asked
        ]
        settings: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.max_answer_tokens}
        if self.structured:
            settings["response_format"] = form.schema()
        advice = f"If it has no structured answers: {self.setting}.structured=false." if self.structured else ""
        votes = []
        with Progress(f"asking {self.endpoint.model}", total=len(talks) * self.votes, unit="questions") as bar:
            for i in range(self.votes):
                seed = {"seed": i} if self.votes > 1 else {}  # without it, equal questions are asked once
                votes.append(self._read(self.endpoint.ask(talks, bar.advance, advice=advice, **settings, **seed), form))
        return [combine(answers) for answers in zip(*votes, strict=True)]

    def _read(self, answers: Sequence[str | None], form: Form) -> list[Any]:
        num_empty = answers.count(None)
        if num_empty and self.without_answer == "stop":
            own = f"{self.setting}.max_answer_tokens={self.max_answer_tokens}"
            limited = limit(self.endpoint.fields, self.endpoint.setting, own)
            refuse_empty(num_empty, len(answers), self.endpoint.url, self.setting, limited)
        verdicts = [None if answer is None else form.read(answer) for answer in answers]
        if None in verdicts and self.budget.first("unreadable"):
            say_unread([str(answer) for answer, found in zip(answers, verdicts, strict=True) if found is None], len(answers))
        return verdicts


def agreed(one: Verdict, swapped: Verdict) -> Verdict:
    """The verdict of both orders, named as in the first: a tie if they disagree; None if one of them can't be read."""
    if one is None or swapped is None:
        return None
    return one if one == SWAPPED[swapped] else "tie"
