"""The one client for OpenAI-compatible servers: answers are cached on disk, failures retried, requests concurrent, spending capped.

The cache's key is the whole request (model, messages, settings): the same question is never paid for twice, also not by another
run. An answer is written as it comes, so a killed run has lost at most what was under way.
"""

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.errors import UserError, need_package
from drift.records import Message, digest, write_json


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`url`: up to and with /v1. `key_variable`: the environment variable that holds the key (null: none is sent). `model`: its
    name there. `concurrency`: requests at once. `retries`: of a request that failed for a reason that may pass (429, 5xx, late),
    with growing pauses. `dollars_per_million_input`, `…_output`: what its tokens cost; `max_dollars`: no request is begun after
    so much was spent in this run. `cache_dir`: for the answers."""

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

    def check(self) -> None:
        need_package("openai", f"the endpoint {self.url}", extra="endpoint")
        if self.key_variable is not None and not os.environ.get(self.key_variable):
            raise UserError(
                f"The endpoint {self.url} needs a key in the environment variable {self.key_variable}, which is not set. "
                "Set it, or key_variable=null for a server without keys."
            )
        if self.concurrency < 1 or self.retries < 0 or self.timeout_seconds <= 0 or self.max_dollars < 0:
            raise UserError("endpoint: expected concurrency >= 1, retries >= 0, timeout_seconds > 0 and max_dollars >= 0.")

    def key(self) -> dict[str, Any]:
        """What an answer depends on."""
        return {"url": self.url, "model": self.model}

    def ask(self, conversations: Sequence[Sequence[Message]], tick: Callable[[int], None], **settings: Any) -> list[str | None]:
        """The answers, in order; None where the budget was spent before. Raises UserError where the server refuses for good."""
        from openai import OpenAI

        client = OpenAI(
            base_url=self.url,
            api_key=os.environ[self.key_variable] if self.key_variable else "none",
            max_retries=self.retries,
            timeout=self.timeout_seconds,
        )
        budget = Budget(self.max_dollars)

        def one(messages: Sequence[Message]) -> str | None:
            request = {"model": self.model, "messages": list(messages), **settings}
            file = Path(self.cache_dir) / f"{digest([self.url, request])[:32]}.json"
            if file.is_file():
                answer = json.loads(file.read_text(encoding="utf-8"))["answer"]
            elif budget.spent():
                return None
            else:
                answer = self._fetch(client, request, budget)
                write_json(file, {"request": request, "answer": answer})
            tick(1)
            return answer

        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(one, conversations))

    def _fetch(self, client: Any, request: dict[str, Any], budget: "Budget") -> str:
        from openai import APIError

        try:
            done = client.chat.completions.create(**request)
        except APIError as error:
            raise UserError(
                f"{self.url} (model {self.model}) failed {self.retries + 1} times or refused: {error}. Answers so far are kept in "
                f"{self.cache_dir}; give the same command again."
            ) from error
        if done.usage is not None:
            cost = done.usage.prompt_tokens * self.dollars_per_million_input
            budget.add((cost + done.usage.completion_tokens * self.dollars_per_million_output) / 1e6)
        return done.choices[0].message.content or ""


class Budget:
    """What was spent, by all threads."""

    def __init__(self, dollars: float) -> None:
        self.dollars, self.used, self.lock = dollars, 0.0, threading.Lock()

    def add(self, dollars: float) -> None:
        with self.lock:
            self.used += dollars

    def spent(self) -> bool:
        return self.used > self.dollars
