"""The client for OpenAI-compatible servers: answers are cached on disk, failures retried, requests concurrent, spending capped.

The cache key is the whole request (model, messages, settings), so no question is paid for twice, not even by another run or by two
runs at once. Every answer is written when it arrives, so a killed run loses at most the requests under way. Its cost is stored
with it, so a resumed run counts what it spent before. A question without an answer (budget, failure) does not hold up the others;
it ends the run after them, because a missing answer must never pass for a result."""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drift.claim import claimed
from drift.console import say
from drift.engine import answer, kept, questions
from drift.engine.answer import Answer
from drift.engine.budget import Budget, Prices
from drift.engine.kept import Entry
from drift.engine.questions import Questions, sendable
from drift.errors import UserError, need_package, writable
from drift.files import remove_unfinished
from drift.masking import mask
from drift.records import Message, digest


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`url`: up to and including /v1. `key_variable`: the environment variable with the key (null: none is sent). `model`: its name
    on the server. `answers_as`: the model name in the answers, if different (null: `model`, or a dated version of it).
    `concurrency`: simultaneous requests. `timeout_seconds`: for a complete answer. `retries`: of a request that failed for a
    temporary reason (429, 5xx, timeout), with growing pauses, or those that the server asks for. `fields`: of a request, added,
    replaced or (null) left out. `dollars_per_million_input`, `…_output`: the price of tokens. `max_dollars`: what all answers of a
    run may cost, including what it paid before an interruption; no request that might exceed it is sent. `cache_dir`: for the
    answers."""

    url: str
    key_variable: str | None
    model: str
    answers_as: str | None
    concurrency: int
    timeout_seconds: float
    retries: int
    fields: dict[str, Any]
    dollars_per_million_input: float
    dollars_per_million_output: float
    max_dollars: float
    cache_dir: str
    budget: Budget = field(init=False, compare=False)
    setting: str = field(init=False, compare=False)  # where it stands in the config, for messages

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Budget(self.max_dollars))
        self.place("endpoint")

    def place(self, setting: str) -> None:
        object.__setattr__(self, "setting", setting)

    def check(self) -> None:
        questions.check_url(self.url, self.setting)
        if self.key_variable is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.key_variable):
            raise UserError(
                f"{self.setting}.key_variable: expected the name of an environment variable like OPENAI_API_KEY. The value is not "
                "repeated here, since it may be the key itself: put the key into the variable."
            )
        need_package("openai", f"the endpoint {self.url}", extra="endpoint")
        if self.key_variable is not None and not self.secret():
            raise UserError(
                f"The endpoint {self.url} needs a key in the environment variable {self.key_variable}, which is not set. "
                f"Set it, or use {self.setting}.key_variable=null for a server without keys."
            )
        if not (secret := self.secret()).isascii() or not secret.isprintable():
            raise UserError(
                f"The key in the environment variable {self.key_variable} can't be sent: it is not a single line of ASCII."
            )
        prices = (self.dollars_per_million_input, self.dollars_per_million_output, self.max_dollars)
        if self.concurrency < 1 or self.retries < 0 or not self.timeout_seconds > 0 or not all(price >= 0 for price in prices):
            raise UserError(
                f"{self.setting}: expected concurrency >= 1, retries >= 0, timeout_seconds > 0, prices >= 0 and max_dollars >= 0."
            )
        questions.check_fields(self.fields, self.setting)

    def key(self) -> dict[str, Any]:
        """The settings that an answer depends on."""
        return {"url": self.url, "model": self.model, "fields": self.fields}

    @property
    def prices(self) -> Prices:
        return Prices(sent=self.dollars_per_million_input, answered=self.dollars_per_million_output)

    def ask(self, talks: Sequence[Sequence[Message]], tick: Callable[[int], None], **settings: Any) -> list[str | None]:
        """The texts of the answers, in order; see `answers`."""
        return [one and one.text for one in self.answers(talks, tick, **settings)]

    def announce(self, talks: Sequence[Sequence[Message]], **settings: Any) -> None:
        """Says what these questions will cost, before the first request of a run; for who knows more than the first ones. Those
        with an answer cost nothing. `settings`: as in `answers`."""
        requests = dict(self._requests(talks, settings))
        self._announce([one for name, one in requests.items() if kept.read(self._file(name), one).answer is None])

    def answers(
        self, talks: Sequence[Sequence[Message]], tick: Callable[[int], None], *, advice: str, seeds: Sequence[int] = (),
        **settings: Any,
    ) -> list[Answer | None]:  # fmt: skip
        """The answers, in order; None for an answer without text. Equal questions are asked only once. Raises UserError if the
        budget is reached or answers are missing; the answers so far are kept. `advice`: if the server calls a request invalid.
        `settings`: of every request, `max_tokens` among them; `seeds`: one for each, if any."""
        requests = self._requests(talks, settings, seeds)
        times, unique = Counter(name for name, _ in requests), dict(requests)
        asked = Questions({}, lambda name: tick(times[name]))
        missing = {name: request for name, request in unique.items() if not self._recall(name, request, asked)}
        if missing:
            self._announce(missing.values())
            with writable(Path(self.cache_dir), f"{self.setting}.cache_dir"):
                asyncio.run(self._ask_all(missing, asked))
            if len(asked.answers) < len(unique):
                raise UserError(self._stopped(asked, len(unique), advice))
        return [asked.answers[name] for name, _ in requests]

    def _requests(
        self, talks: Sequence[Sequence[Message]], settings: dict[str, Any], seeds: Sequence[int] = ()
    ) -> list[tuple[str, dict[str, Any]]]:
        """A request for each talk, with its name in the cache."""
        requests = [{"model": self.model, "messages": [sendable(m) for m in messages], **settings} for messages in talks]
        for request, seed in zip(requests, seeds, strict=bool(seeds)):
            request["seed"] = seed
        requests = [questions.with_fields(request, self.fields) for request in requests]
        return [(digest([self.url, request])[:32], request) for request in requests]

    async def _ask_all(self, requests: dict[str, Any], asked: Questions) -> None:
        """Collects the answers to these requests, given by name."""
        rest = iter(requests.items())
        asyncio.get_running_loop().set_exception_handler(_unless_stopped)
        async with answer.open_client(self.url, self.secret() or None, self.timeout_seconds) as client:

            async def worker() -> None:
                for name, request in rest:
                    if not asked.gave_up():
                        await self._ask_one(client, name, request, asked)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.concurrency, len(requests))):
                        group.create_task(worker())
            except ExceptionGroup as errors:  # a full disk, for example: one error is enough to report
                raise errors.exceptions[0] from None

    async def _ask_one(self, client: Any, name: str, request: dict[str, Any], asked: Questions) -> None:
        """Collects one answer, or the reason why there is none."""
        async with claimed(self._file(name), (self.timeout_seconds + answer.LONGEST_PAUSE) * (self.retries + 1)):
            if self._recall(name, request, asked):  # another process has asked it meanwhile
                return
            remove_unfinished(self._file(name))
            for tried in range(self.retries + 1):
                if asked.gave_up():
                    return
                if not await self.budget.reserve(name, self.prices.most(request)):
                    asked.capped = True
                    return
                failure = await self._try(client, name, request, asked)
                if failure is None:
                    return
                if not failure.passes or tried == self.retries:
                    asked.failed(failure)
                    return
                await asyncio.sleep(failure.wait(tried))

    async def _try(self, client: Any, name: str, request: dict[str, Any], asked: Questions) -> answer.Failure | None:
        """One try; its cost is settled and stored however it ends."""
        paid, found = self.prices.most(request), None  # until the actual cost is known
        try:
            if asked.gave_up():  # while this one waited for the budget
                paid = 0.0
                return None
            received = await answer.ask(client, request, self.timeout_seconds, self.answers_as or self.model)
            paid = self._cost(received.tokens, paid)
            asked.answers[name] = found = self._masked(received.answer)
            asked.in_a_row = 0
        except answer.Failure as failure:
            paid = paid if failure.paid else 0.0
            return failure
        finally:
            dollars, tries = self.budget.settle(name, paid)
            if paid or found:
                kept.write(self._file(name), request, Entry(answer=found, dollars=dollars, tries=tries))
        asked.tick(name)
        return None

    def _cost(self, tokens: tuple[int, int] | None, most: float) -> float:
        """The cost of a request in dollars by the server's own token count; without a plausible count, the most it may have
        cost."""
        if tokens is not None:
            return self.prices.of(*tokens)
        if most and self.budget.first("guess"):
            say(f"  {self.url} does not report token counts, so the maximum is charged (one token per byte).")
        return most

    def _announce(self, requests: Collection[dict[str, Any]]) -> None:
        """Says what these questions will cost, before the first request of a run."""
        if requests and self.budget.first("question"):
            told = self.prices.estimate(requests, f"{self.setting}.max_dollars={self.max_dollars:g}")
            say(f"  {self.url} (model {self.model}): {len(requests)} questions to begin with, {told}")

    def _masked(self, found: Answer | None) -> Answer | None:
        """The answer without the key, which a server may repeat."""
        if found is None:
            return None
        top = found.top_logprobs and {mask(token, self.secret()): nats for token, nats in found.top_logprobs.items()}
        return replace(found, text=mask(found.text, self.secret()), top_logprobs=top)

    def _file(self, name: str) -> Path:
        return Path(self.cache_dir) / f"{name}.json"

    def _recall(self, name: str, request: dict[str, Any], asked: Questions) -> bool:
        """Takes the answer to a question from the cache, if it is there, and counts its cost."""
        found = kept.read(self._file(name), request)
        self.budget.count(name, found.dollars, found.tries)
        if found.answer is not None:
            asked.answers[name] = found.answer
            asked.tick(name)
        return found.answer is not None

    def secret(self) -> str:
        return os.environ.get(self.key_variable, "").strip() if self.key_variable else ""

    def _stopped(self, asked: Questions, wanted: int, advice: str) -> str:
        answered = sum(map(bool, asked.answers.values()))
        why = [f"{self.url} (model {self.model}) {asked.describe_failures(wanted)}"] if asked.failures else []
        why += asked.advice(self.setting, advice)
        if asked.capped:
            why.append(
                f"The budget is reached: {self.setting}.max_dollars={self.max_dollars:g}, and the next one may cost "
                f"{self.budget.dearest:.6g}; raise it."
            )
        text = (
            f"{' '.join(why)} So far {answered} of the {wanted} questions are answered, for {self.budget.used:.6g} dollars; the "
            f"answers are kept in {self.cache_dir}, and nothing else was written. Fix that and run the same command again: only "
            "the rest will be asked."
        )
        return mask(text, self.secret())


def _unless_stopped(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Passes on what asyncio reports about unhandled exceptions, except those that are already ending the program."""
    if not isinstance(context.get("exception"), (SystemExit, KeyboardInterrupt)):
        loop.default_exception_handler(context)
