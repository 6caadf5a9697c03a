"""The one client for OpenAI-compatible servers: answers are cached on disk, failures retried, requests concurrent, spending capped.

The cache's key is the whole request (model, messages, settings): the same question is never paid for twice, also not by another
run or by two at once. An answer is written as it comes, so a killed run has lost at most what was under way. Beside every answer
stands what it cost: a run that goes on counts what it spent before. What could not be had (budget, failure) keeps no other question
from its answer, and ends the run after them: it is no answer, and whoever asked must not go on as if it were one.
"""

import asyncio
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift.claim import claimed
from drift.console import say
from drift.engine import answer
from drift.engine.budget import Budget
from drift.errors import UserError, need_package, writable
from drift.files import remove_unfinished
from drift.masking import mask
from drift.records import Message, digest, write_json

GIVE_UP = 10  # questions in a row without an answer: the others would fare no better


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`url`: up to and with /v1. `key_variable`: the environment variable that holds the key (null: none is sent). `model`: its
    name there. `answers_as`: the name that its answers bear, where that is another (null: `model`, or a dated version of it).
    `concurrency`: requests at once. `timeout_seconds`: for a whole answer. `retries`: of a request that failed for a reason that
    may pass (429, 5xx, late), with growing pauses or those that the server asks for. `dollars_per_million_input`, `…_output`: what
    its tokens cost; `max_dollars`: what all answers of a run may cost, those that an interrupted one paid for included; no request
    is begun that would exceed it. `cache_dir`: for the answers."""

    url: str
    key_variable: str | None
    model: str
    answers_as: str | None
    concurrency: int
    timeout_seconds: float
    retries: int
    dollars_per_million_input: float
    dollars_per_million_output: float
    max_dollars: float
    cache_dir: str
    budget: Budget = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Budget(self.max_dollars))

    def check(self) -> None:
        answer.check_url(self.url)
        if self.key_variable is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.key_variable):
            raise UserError(
                "mine.endpoint.key_variable: expected the name of an environment variable, as OPENAI_API_KEY. What stands there is "
                "not repeated, since it may be the key itself: put that into the variable."
            )
        need_package("openai", f"the endpoint {self.url}", extra="endpoint")
        if self.key_variable is not None and not self._secret():
            raise UserError(
                f"The endpoint {self.url} needs a key in the environment variable {self.key_variable}, which is not set. "
                "Set it, or key_variable=null for a server without keys."
            )
        if not (secret := self._secret()).isascii() or not secret.isprintable():
            raise UserError(f"The key in the environment variable {self.key_variable} can't be sent: it isn't one line of ASCII.")
        prices = (self.dollars_per_million_input, self.dollars_per_million_output, self.max_dollars)
        if self.concurrency < 1 or self.retries < 0 or not self.timeout_seconds > 0 or not all(price >= 0 for price in prices):
            raise UserError(
                "mine.endpoint: expected concurrency >= 1, retries >= 0, timeout_seconds > 0, prices >= 0 and max_dollars >= 0."
            )

    def key(self) -> dict[str, Any]:
        """What an answer depends on."""
        return {"url": self.url, "model": self.model}

    def ask(
        self, conversations: Sequence[Sequence[Message]], tick: Callable[[int], None], *, max_tokens: int, **settings: Any
    ) -> list[str | None]:
        """The answers, in order; None where the server answered without a text. Equal questions are asked once, whoever asks.
        Raises UserError where the budget is reached or answers could not be had; the answers so far are kept."""
        settings = {"max_tokens": max_tokens, **settings}
        requests = [{"model": self.model, "messages": [_sendable(m) for m in messages], **settings} for messages in conversations]
        names = [digest([self.url, request])[:32] for request in requests]
        times, unique = Counter(names), dict(zip(names, requests, strict=True))
        asked = Asked({}, lambda name: tick(times[name]))
        missing = {name: request for name, request in unique.items() if not self._recall(name, request, asked)}
        if missing:
            with writable(Path(self.cache_dir), "mine.endpoint.cache_dir"):
                asyncio.run(self._ask_all(missing, asked))
            if len(asked.answers) < len(unique):
                raise UserError(self._stopped(asked, len(unique)))
        return [asked.answers[name] for name in names]

    async def _ask_all(self, requests: dict[str, Any], asked: "Asked") -> None:
        """Adds the answers to these requests, by their names."""
        rest = iter(requests.items())
        asyncio.get_running_loop().set_exception_handler(_unless_stopped)
        async with answer.open_client(self.url, self._secret() or None, self.timeout_seconds) as client:

            async def worker() -> None:
                for name, request in rest:
                    if not asked.over():
                        await self._ask_one(client, name, request, asked)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.concurrency, len(requests))):
                        group.create_task(worker())
            except ExceptionGroup as errors:  # a full disk, say: one of them is enough to be told
                raise errors.exceptions[0] from None

    async def _ask_one(self, client: Any, name: str, request: dict[str, Any], asked: "Asked") -> None:
        """Adds one answer, or what was in its way."""
        async with claimed(self._file(name), (self.timeout_seconds + answer.LONGEST_PAUSE) * (self.retries + 1)):
            if self._recall(name, request, asked):  # another process has asked meanwhile
                return
            remove_unfinished(self._file(name))
            for tried in range(self.retries + 1):
                if asked.over():
                    return
                if not await self.budget.reserve(name, self._most(request)):
                    asked.capped = True
                    return
                failure = await self._try(client, name, request, asked)
                if failure is None:
                    return
                if not failure.passes or tried == self.retries:
                    asked.failed(failure)
                    return
                await asyncio.sleep(failure.wait(tried))

    async def _try(self, client: Any, name: str, request: dict[str, Any], asked: "Asked") -> answer.Failure | None:
        """One try, whose cost is settled and written down however it ends."""
        paid, text = self._most(request), None  # unless it is known better
        try:
            if asked.over():  # while this one waited for the budget
                paid = 0.0
                return None
            found = await answer.ask(client, request, self.timeout_seconds, self.answers_as or self.model)
            paid = self._cost(found.tokens, paid)
            asked.answers[name] = text = mask(found.text, self._secret()) if found.text else None
            asked.in_a_row = 0
        except answer.Failure as failure:
            paid = paid if failure.paid else 0.0
            return failure
        finally:
            dollars, tries = self.budget.settle(name, paid)
            if paid or text:
                write_json(self._file(name), {"request": request, "answer": text, "dollars": dollars, "tries": tries})
        asked.tick(name)
        return None

    def _cost(self, tokens: tuple[int, int] | None, most: float) -> float:
        """Dollars of a request by the server's own count of tokens; where it gives none that can be true, the most it can be."""
        if tokens is not None:
            return (tokens[0] * self.dollars_per_million_input + tokens[1] * self.dollars_per_million_output) / 1e6
        if most and self.budget.first_guess():
            say(f"  {self.url} does not say how many tokens a request took: the most that it can be is counted (a token a byte).")
        return most

    def _most(self, request: dict[str, Any]) -> float:
        """Dollars that a request costs at most: no token is shorter than a byte."""
        sent = sum(len(text.encode("utf-8", "replace")) + 16 for message in request["messages"] for text in message.values())
        return (sent * self.dollars_per_million_input + request["max_tokens"] * self.dollars_per_million_output) / 1e6

    def _file(self, name: str) -> Path:
        return Path(self.cache_dir) / f"{name}.json"

    def _recall(self, name: str, request: dict[str, Any], asked: "Asked") -> bool:
        """Adds the answer to a question if it lies in the cache; counts what was spent on it. A file that can't be read is none."""
        try:
            kept = json.loads(self._file(name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return False
        kept = kept if isinstance(kept, dict) else {}
        text, dollars, tries = kept.get("answer"), kept.get("dollars"), kept.get("tries")
        if isinstance(dollars, (int, float)) and 0 < dollars < math.inf:
            self.budget.count(name, float(dollars), tries if type(tries) is int and tries > 0 else 1)
        if not isinstance(text, str) or not text.strip() or kept.get("request") != request:
            return False
        asked.answers[name] = text
        asked.tick(name)
        return True

    def _secret(self) -> str:
        return os.environ.get(self.key_variable, "").strip() if self.key_variable else ""

    def _stopped(self, asked: "Asked", wanted: int) -> str:
        answered = sum(map(bool, asked.answers.values()))
        why = [f"{self.url} (model {self.model}) {asked.said(wanted)}"] if asked.failures else []
        if asked.capped:
            why.append(
                f"The budget is reached: mine.endpoint.max_dollars={self.max_dollars:g}, and the next one may cost "
                f"{self.budget.dearest:.6g}; raise it."
            )
        text = (
            f"{' '.join(why)} {answered} of the {wanted} questions so far are answered, for {self.budget.used:.6g} dollars; the "
            f"answers are kept in {self.cache_dir}, and nothing else was written. Mend that and give the same command again: only "
            "the rest is asked."
        )
        return mask(text, self._secret())


@dataclass
class Asked:
    """What has become of the questions: `answers` by name (None: without a text), `failures` by kind. `tick` is called with the
    name of every answered one."""

    answers: dict[str, str | None]
    tick: Callable[[str], None]
    failures: Counter[str] = field(default_factory=Counter)
    last: str = ""
    in_a_row: int = 0
    capped: bool = False

    def failed(self, failure: answer.Failure) -> None:
        self.failures[failure.kind] += 1
        self.last = str(failure)
        self.in_a_row += 1

    def over(self) -> bool:
        return self.in_a_row >= GIVE_UP

    def said(self, wanted: int) -> str:
        """The failures, counted."""
        kinds = "; ".join(f"{count} x {kind}" for kind, count in self.failures.most_common())
        rest = f", the last {GIVE_UP} in a row, so the rest was not asked" if self.over() else ""
        name = " If it is right under another name: mine.endpoint.answers_as=NAME." if "of the model" in kinds else ""
        return f"left {self.failures.total()} of the {wanted} questions unanswered ({kinds}{rest}). The last: {self.last}.{name}"


def _unless_stopped(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio says about exceptions that nobody has looked at, but for those that end the program, which are on their way."""
    if not isinstance(context.get("exception"), (SystemExit, KeyboardInterrupt)):
        loop.default_exception_handler(context)


def _sendable(message: Message) -> Message:
    return {name: text.encode("utf-8", "replace").decode() for name, text in message.items()}
