"""The one client for OpenAI-compatible servers: answers are cached on disk, failures retried, requests concurrent, spending capped.

The cache's key is the whole request (model, messages, settings): the same question is never paid for twice, also not by another
run. An answer is written as it comes, so a killed run has lost at most what was under way. Beside every answer stands what it cost:
a run that goes on counts what it spent before. What could not be had (budget, failure) ends the run: it is no answer, and whoever
asked must not go on as if it were one.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift.budget import Budget
from drift.errors import UserError, need_package
from drift.records import Message, digest, write_json
from drift.report.console import say


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`url`: up to and with /v1. `key_variable`: the environment variable that holds the key (null: none is sent). `model`: its
    name there. `concurrency`: requests at once. `retries`: of a request that failed for a reason that may pass (429, 5xx, late),
    with growing pauses. `dollars_per_million_input`, `…_output`: what its tokens cost; `max_dollars`: what all answers of a run may
    cost, those that an interrupted one paid for included; no request is begun that would exceed it. `cache_dir`: for the
    answers."""

    url: str
    key_variable: str | None
    model: str
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
        need_package("openai", f"the endpoint {self.url}", extra="endpoint")
        if self.key_variable is not None and not os.environ.get(self.key_variable):
            raise UserError(
                f"The endpoint {self.url} needs a key in the environment variable {self.key_variable}, which is not set. "
                "Set it, or key_variable=null for a server without keys."
            )
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
        """The answers, in order; None where the server answered without a text. Equal questions are asked once. Raises UserError
        where the budget is reached or the server fails for good; the answers so far are kept."""
        settings = {"max_tokens": max_tokens, **settings}
        requests = [{"model": self.model, "messages": list(messages), **settings} for messages in conversations]
        names = [digest([self.url, request])[:32] for request in requests]
        times, unique = Counter(names), dict(zip(names, requests, strict=True))
        answers: dict[str, str | None] = {}
        for name in unique:
            kept = self._kept(name)
            self.budget.count(name, kept["dollars"], kept["tries"])
            if kept["answer"]:
                answers[name] = kept["answer"]
                tick(times[name])
        missing = [name for name in unique if name not in answers]
        if missing:
            self._fetch_all({name: unique[name] for name in missing}, answers, lambda name: tick(times[name]))
        return [answers[name] for name in names]

    def _fetch_all(self, requests: dict[str, Any], answers: dict[str, str | None], tick: Callable[[str], None]) -> None:
        """Adds the answers to these requests, by their names."""
        from openai import OpenAI

        client = OpenAI(
            base_url=self.url,
            api_key=os.environ[self.key_variable] if self.key_variable else "none",
            max_retries=self.retries,
            timeout=self.timeout_seconds,
        )
        found = len(answers)
        failures: list[str] = []

        def one(name: str) -> None:
            most = self._most(requests[name])
            paid = 0.0
            if not self.budget.reserve(name, most):
                return
            try:
                if failures:  # of the others, while this one waited
                    return
                answers[name], paid = self._fetch(client, requests[name], most)
            except Failure as failure:
                failures.append(str(failure))
                paid = failure.dollars
            finally:
                dollars, tries = self.budget.settle(name, paid)
            if paid or answers.get(name):
                entry = {"request": requests[name], "answer": answers.get(name), "dollars": dollars, "tries": tries}
                write_json(self._file(name), entry)
            if name in answers:
                tick(name)

        with ThreadPoolExecutor(self.concurrency) as pool:
            list(pool.map(one, requests))
        asked = found + len(requests)
        if len(answers) < asked:
            raise UserError(self._stopped(failures, sum(map(bool, answers.values())), asked))

    def _fetch(self, client: Any, request: dict[str, Any], most: float) -> tuple[str | None, float]:
        """(answer or None, dollars); raises Failure."""
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError
        from openai.types.chat import ChatCompletion

        try:
            done = client.chat.completions.create(**request)
        except APITimeoutError as error:  # every try may have been paid for
            raise Failure(str(error), most * (self.retries + 1)) from error
        except (APIStatusError, APIConnectionError) as error:
            raise Failure(str(error), 0.0) from error
        except (APIError, ValueError) as error:  # an answer that is no JSON, for one
            raise Failure(str(error), most) from error
        if not isinstance(done, ChatCompletion):
            raise Failure(f"it answered with {str(done)[:80]!r}, not with a chat completion", most)
        body = done.model_dump(warnings=False)
        try:
            answer = body["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            answer = None
        return answer if isinstance(answer, str) and answer.strip() else None, self._cost(body.get("usage"), most)

    def _cost(self, usage: Any, most: float) -> float:
        """Dollars of a request by the server's own count of tokens; where it gives none that can be true, the most it can be."""
        counted = usage if isinstance(usage, dict) else {}
        sent, answered = counted.get("prompt_tokens"), counted.get("completion_tokens")
        if type(sent) is int and type(answered) is int and sent > 0 and answered >= 0:
            return (sent * self.dollars_per_million_input + answered * self.dollars_per_million_output) / 1e6
        if most and self.budget.first_guess():
            say(f"  {self.url} does not say how many tokens a request took: the most that it can be is counted (a token a byte).")
        return most

    def _most(self, request: dict[str, Any]) -> float:
        """Dollars that a request costs at most: no token is shorter than a byte."""
        sent = sum(len(text.encode("utf-8", "replace")) + 16 for message in request["messages"] for text in message.values())
        return (sent * self.dollars_per_million_input + request["max_tokens"] * self.dollars_per_million_output) / 1e6

    def _file(self, name: str) -> Path:
        return Path(self.cache_dir) / f"{name}.json"

    def _kept(self, name: str) -> dict[str, Any]:
        """What is known of a request: its answer, the dollars spent on it, in how many tries. A file that can't be read is none."""
        try:
            kept = json.loads(self._file(name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            kept = None
        kept = kept if isinstance(kept, dict) else {}
        answer = kept.get("answer")
        answer = answer if isinstance(answer, str) and answer.strip() else None
        return {"answer": answer, "dollars": kept.get("dollars", 0.0), "tries": kept.get("tries", 1)}

    def _stopped(self, failures: list[str], answered: int, asked: int) -> str:
        spent = f"{answered} of the {asked} questions so far are answered, for {self.budget.used:.6g} dollars"
        go_on = "and give the same command again: only the rest is asked."
        if failures:
            return (
                f"{self.url} (model {self.model}) failed {self.retries + 1} times or refused: {failures[0]}. {spent}; the answers "
                f"are kept in {self.cache_dir}. Mend the cause, {go_on}"
            )
        return (
            f"The budget is reached: mine.endpoint.max_dollars={self.max_dollars:g}. {spent}; the next one may cost "
            f"{self.budget.dearest:.6g}. Nothing else was written; the answers are kept in {self.cache_dir}. "
            f"Raise mine.endpoint.max_dollars {go_on}"
        )


class Failure(Exception):
    """A request without an answer, and the dollars that it may have cost."""

    def __init__(self, why: str, dollars: float) -> None:
        super().__init__(why)
        self.dollars = dollars
