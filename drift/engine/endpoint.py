"""The client for OpenAI-compatible servers: answers are cached on disk, failures retried, requests concurrent, spending capped.

The cache key is the whole request (model, messages, settings), so no question is paid for twice, not even by another run or by two
runs at once. Every answer is written when it arrives, so a killed run loses at most the requests under way. Its cost is stored
with it, so a resumed run counts what it spent before. A question without an answer (budget, failure) does not hold up the others;
it ends the run after them, because a missing answer must never pass for a result."""

import asyncio
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift.claim import claimed
from drift.console import say
from drift.engine import answer
from drift.engine.budget import Budget
from drift.engine.questions import Questions, most_tokens
from drift.errors import UserError, need_package, writable
from drift.files import remove_unfinished
from drift.masking import mask
from drift.records import Message, digest, write_json

INVALID = ("status 400", "status 422")
BYTES_PER_TOKEN, SHARE_ANSWERED = 4, 0.5  # for the estimate: of English; of the tokens that an answer may have


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`url`: up to and including /v1. `key_variable`: the environment variable with the key (null: none is sent). `model`: its name
    on the server. `answers_as`: the model name in the answers, if different (null: `model`, or a dated version of it).
    `concurrency`: simultaneous requests. `timeout_seconds`: for a complete answer. `retries`: of a request that failed for a
    temporary reason (429, 5xx, timeout), with growing pauses, or those that the server asks for. `dollars_per_million_input`,
    `…_output`: the price of tokens. `max_dollars`: what all answers of a run may cost, including what it paid before an
    interruption; no request that might exceed it is sent. `cache_dir`: for the answers."""

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
    setting: str = field(init=False, compare=False)  # where it stands in the config, for messages

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Budget(self.max_dollars))
        self.place("endpoint")

    def place(self, setting: str) -> None:
        object.__setattr__(self, "setting", setting)

    def check(self) -> None:
        answer.check_url(self.url, self.setting)
        if self.key_variable is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.key_variable):
            raise UserError(
                f"{self.setting}.key_variable: expected the name of an environment variable like OPENAI_API_KEY. The value is not "
                "repeated here, since it may be the key itself: put the key into the variable."
            )
        need_package("openai", f"the endpoint {self.url}", extra="endpoint")
        if self.key_variable is not None and not self._secret():
            raise UserError(
                f"The endpoint {self.url} needs a key in the environment variable {self.key_variable}, which is not set. "
                f"Set it, or use {self.setting}.key_variable=null for a server without keys."
            )
        if not (secret := self._secret()).isascii() or not secret.isprintable():
            raise UserError(
                f"The key in the environment variable {self.key_variable} can't be sent: it is not a single line of ASCII."
            )
        prices = (self.dollars_per_million_input, self.dollars_per_million_output, self.max_dollars)
        if self.concurrency < 1 or self.retries < 0 or not self.timeout_seconds > 0 or not all(price >= 0 for price in prices):
            raise UserError(
                f"{self.setting}: expected concurrency >= 1, retries >= 0, timeout_seconds > 0, prices >= 0 and max_dollars >= 0."
            )

    def key(self) -> dict[str, Any]:
        """The settings that an answer depends on."""
        return {"url": self.url, "model": self.model}

    def ask(
        self, talks: Sequence[Sequence[Message]], tick: Callable[[int], None], *, max_tokens: int, advice: str, **settings: Any
    ) -> list[str | None]:
        """The answers, in order; None for an answer without text. Equal questions are asked only once. Raises UserError if the
        budget is reached or answers are missing; the answers so far are kept. `advice`: if the server calls a request invalid."""
        settings = {"max_tokens": max_tokens, **settings}
        requests = [{"model": self.model, "messages": [_sendable(m) for m in messages], **settings} for messages in talks]
        names = [digest([self.url, request])[:32] for request in requests]
        times, unique = Counter(names), dict(zip(names, requests, strict=True))
        asked = Questions({}, lambda name: tick(times[name]))
        missing = {name: request for name, request in unique.items() if not self._recall(name, request, asked)}
        if missing:
            self._announce(missing.values())
            with writable(Path(self.cache_dir), f"{self.setting}.cache_dir"):
                asyncio.run(self._ask_all(missing, asked))
            if len(asked.answers) < len(unique):
                raise UserError(self._stopped(asked, len(unique), advice))
        return [asked.answers[name] for name in names]

    async def _ask_all(self, requests: dict[str, Any], asked: Questions) -> None:
        """Collects the answers to these requests, given by name."""
        rest = iter(requests.items())
        asyncio.get_running_loop().set_exception_handler(_unless_stopped)
        async with answer.open_client(self.url, self._secret() or None, self.timeout_seconds) as client:

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

    async def _try(self, client: Any, name: str, request: dict[str, Any], asked: Questions) -> answer.Failure | None:
        """One try; its cost is settled and stored however it ends."""
        paid, text = self._most(request), None  # until the actual cost is known
        try:
            if asked.gave_up():  # while this one waited for the budget
                paid = 0.0
                return None
            received = await answer.ask(client, request, self.timeout_seconds, self.answers_as or self.model)
            paid = self._cost(received.tokens, paid)
            asked.answers[name] = text = mask(received.text, self._secret()) if received.text else None
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
        """The cost of a request in dollars by the server's own token count; without a plausible count, the most it may have
        cost."""
        if tokens is not None:
            return self._dollars(*tokens)
        if most and self.budget.first("guess"):
            say(f"  {self.url} does not report token counts, so the maximum is charged (one token per byte).")
        return most

    def _announce(self, requests: Collection[dict[str, Any]]) -> None:
        """Says what these questions will cost, before the first request of a run."""
        if not self.budget.first("question"):
            return
        sent, answered = (sum(counts) for counts in zip(*(most_tokens(request) for request in requests), strict=True))
        likely = self._dollars(sent / BYTES_PER_TOKEN, SHARE_ANSWERED * answered)
        count = len(requests)
        cost = f"about {likely:.3g} dollars ({likely / count:.3g} each), {self._dollars(sent, answered):.3g} at most"
        cap = f"{self.setting}.max_dollars={self.max_dollars:g}"
        told = f"{cost}; {cap} for the whole run" if likely else f"no price is given, so {cap} has no effect"
        say(f"  {self.url} (model {self.model}): {count} questions to begin with, {told}")

    def _dollars(self, sent: float, answered: float) -> float:
        """The price of tokens sent and answered."""
        return (sent * self.dollars_per_million_input + answered * self.dollars_per_million_output) / 1e6

    def _most(self, request: dict[str, Any]) -> float:
        """The most that a request may cost in dollars."""
        return self._dollars(*most_tokens(request))

    def _file(self, name: str) -> Path:
        return Path(self.cache_dir) / f"{name}.json"

    def _recall(self, name: str, request: dict[str, Any], asked: Questions) -> bool:
        """Takes the answer to a question from the cache, if it is there, and counts its cost. An unreadable file counts as
        missing."""
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

    def _stopped(self, asked: Questions, wanted: int, advice: str) -> str:
        answered = sum(map(bool, asked.answers.values()))
        why = [f"{self.url} (model {self.model}) {asked.describe_failures(wanted)}"] if asked.failures else []
        if any("of the model" in kind for kind in asked.failures):
            why.append(f"If that is the right model under another name, set {self.setting}.answers_as=NAME.")
        if advice and not asked.failures.keys().isdisjoint(INVALID):
            why.append(advice)
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
        return mask(text, self._secret())


def _unless_stopped(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Passes on what asyncio reports about unhandled exceptions, except those that are already ending the program."""
    if not isinstance(context.get("exception"), (SystemExit, KeyboardInterrupt)):
        loop.default_exception_handler(context)


def _sendable(message: Message) -> Message:
    return {name: text.encode("utf-8", "replace").decode() for name, text in message.items()}
