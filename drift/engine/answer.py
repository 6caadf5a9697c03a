"""One request to an OpenAI-compatible server, and the strict parsing of its answer: nothing is taken on trust.

The complete answer has a deadline (sending a byte now and then does not extend it) and a size limit. Redirects are not followed.
Anything that is not a chat completion is a `Failure`, which says whether a retry may help.
"""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

MOST_BYTES = 4 * 2**20  # of an answer; 20 tokens take about a thousand
SHOWN = 200  # characters of a server's message
PASSING = {408, 409, 425, 429}  # statuses below 500 that are worth a retry
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds between tries, unless the server asks for a pause
MOST_TOKENS = 10**9  # plausible for one request; larger counts are ignored
FILTERED = re.compile(r'"code"\s*:\s*"(content_filter|content_policy_violation|data_inspection_failed|invalid_prompt)"')
VERSION = r"\d{4}-?\d\d-?\d\d|\d{6}|\d{3,4}|\d\d-\d\d|v\d[\d.:]*|latest|main"  # of a model: what may follow its name
HELD_BACK = "held back by a filter"  # the kind of a failure that no retry can help


class Failure(Exception):
    """A request without a usable answer. `kind`: to count failures by. `said`: the server's own message. `passes`: a retry may
    help. `paid`: it may have cost money. `pause`: seconds that the server asks the client to wait."""

    def __init__(self, kind: str, said: str = "", *, passes: bool = False, paid: bool = False, pause: float | None = None) -> None:
        super().__init__(f"{kind}: {said}" if said else kind)
        self.kind, self.passes, self.paid, self.pause = kind, passes, paid, pause

    def wait(self, tried: int) -> float:
        """Seconds until the next try. `tried`: the number of tries before this one."""
        return min(FIRST_PAUSE * 2**tried if self.pause is None else self.pause, LONGEST_PAUSE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answered. `top_logprobs`: the likeliest first tokens with their log-probabilities in nats, if they were asked
    for and the server gives them, else None. With them the text may be blank, and so may a fresh reply (`of_reply`). Only of such a
    reply: `ended`, whether the model ended it; `nats`, the log-probabilities of all its tokens, if the server gives them."""

    text: str
    top_logprobs: Mapping[str, float] | None
    ended: bool | None = None
    nats: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Received:
    """`answer`: None if there is nothing to use. `tokens`: (prompt, completion) as counted by the server; None if it doesn't
    say."""

    answer: Answer | None
    tokens: tuple[int, int] | None


def open_client(url: str, key: str | None, seconds: float) -> Any:
    """An asynchronous openai client that tries once and follows no redirects. A key that begins with "Basic " is sent unchanged."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    headers = {"Accept-Encoding": "identity"}  # a compressed answer would get around the size limit
    if key and key.startswith("Basic "):
        headers["Authorization"] = key
    http = DefaultAsyncHttpxClient(follow_redirects=False, timeout=seconds, event_hooks={"response": [refuse]})
    return AsyncOpenAI(
        base_url=url, api_key=key or "none", max_retries=0, timeout=seconds, default_headers=headers, http_client=http
    )


async def ask(client: Any, request: dict[str, Any], seconds: float, name: str) -> Received:
    """Sends one request. `seconds`: for the complete answer; `name`: the model that must have answered. Raises Failure."""
    try:
        async with asyncio.timeout(seconds):
            async with client.chat.completions.with_streaming_response.create(**request) as response:
                body = await start_of(response.iter_bytes(), MOST_BYTES + 1)
    except Exception as error:  # of any of three layers of libraries: in each case there is no answer
        failure = as_failure(error, seconds)
        if failure.kind == HELD_BACK:
            return Received(answer=None, tokens=None)
        raise failure from error
    if len(body) > MOST_BYTES:
        raise Failure(f"an answer of more than {MOST_BYTES >> 20} MiB", paid=True)
    return read(body, name, logprobs="top_logprobs" in request, reply=of_reply(request))


def of_reply(request: Mapping[str, Any]) -> bool:
    """Whether a request is for a fresh reply: it asks for the log-probabilities of what the model says, and of nothing else."""
    return bool(request.get("logprobs")) and "top_logprobs" not in request


async def refuse(response: Any) -> None:
    """Called when the headers arrive: raises Failure unless they announce an answer; reads at most the start of an error
    message."""
    status, headers = response.status_code, response.headers
    if headers.get("content-encoding", "identity") != "identity":
        raise Failure(f"status {status}, compressed although that was not requested", paid=response.is_success)
    if response.is_redirect:
        raise Failure(f"status {status}, a redirect", text_of(headers.get("location", "").partition("?")[0].encode()))
    if not response.is_success:
        said = await start_of(response.aiter_bytes(), 20 * SHOWN)
        kind = HELD_BACK if status in (400, 403) and FILTERED.search(said.decode("utf-8", "replace")) else f"status {status}"
        raise Failure(kind, text_of(said), passes=status in PASSING or status >= 500, pause=_pause(headers))


async def start_of(parts: AsyncIterator[bytes], most: int) -> bytes:
    body = b""
    async for part in parts:
        body += part
        if len(body) >= most:
            break
    return body[:most]


def read(body: bytes, name: str, *, logprobs: bool, reply: bool = False) -> Received:
    """The answer in a response body; raises Failure if it is not a chat completion by the model `name`. `logprobs`: those of the
    first token were asked for; `reply`: it is a fresh reply."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Failure("an answer that is not JSON", text_of(body), passes=True, paid=True) from error
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices:  # gateways answer {"error": …} with status 200
        raise Failure("an answer without choices", text_of(body), passes=True, paid=True)
    if (model := content.get("model")) is not None and not same_model(model, name):
        raise Failure(f"an answer of the model {text_of(str(model).encode('utf-8', 'replace'))}, not {name}", paid=True)
    try:
        text = choices[0]["message"]["content"]
        text.encode("utf-8")  # fails for a lone surrogate, which can't be stored
        top, finish = first_token(choices[0]) if logprobs else None, choices[0].get("finish_reason")
        usable = bool(text.strip() or top or (reply and finish == "stop")) and finish != "content_filter"
        rest = {"ended": finish == "stop", "nats": token_nats(choices[0])} if reply else {}
    except (KeyError, TypeError, AttributeError, UnicodeEncodeError):
        usable, text, top, rest = False, "", None, {}
    return Received(answer=Answer(text=text, top_logprobs=top, **rest) if usable else None, tokens=_tokens(content.get("usage")))


def token_nats(choice: Any) -> list[float] | None:
    """The log-probabilities of all tokens of a choice; None if the server gives none that can be used."""
    try:
        found = [one["logprob"] for one in choice["logprobs"]["content"]]
    except (KeyError, TypeError):
        return None
    return found if found and are_nats(found) else None


def are_nats(found: Any) -> bool:
    """Whether this is a list of finite numbers that are not above 0."""
    return isinstance(found, list) and all(type(nats) in (int, float) and -math.inf < nats <= 0 for nats in found)


def first_token(choice: Any) -> dict[str, float] | None:
    """The likeliest first tokens of a choice; None if the server gives none. Raises Failure if they are no log-probabilities."""
    try:
        given = choice["logprobs"]["content"][0]["top_logprobs"]
    except (KeyError, TypeError, IndexError):
        return None
    if not given:
        return None
    try:
        found = {one["token"]: one["logprob"] for one in reversed(given)}  # of equal texts, the likelier token
    except (KeyError, TypeError):
        found = None
    if not are_logprobs(found):
        raise Failure("an answer whose top_logprobs are no log-probabilities", passes=True, paid=True)
    return found


def are_logprobs(found: Any) -> bool:
    """Whether these are texts with finite numbers that are not above 0."""
    return isinstance(found, dict) and all(
        isinstance(token, str)
        and token.encode("utf-8", "replace").decode() == token
        and type(nats) in (int, float)
        and -math.inf < nats <= 0
        for token, nats in found.items()
    )


def same_model(given: Any, asked: str) -> bool:
    """Whether the model name in an answer matches the one asked for: the name itself, a version of it (a date, a number of three
    digits, "v2", "latest"), or either with a path in front, as gateways add. Not another model of the family: gpt-4.1-mini is no
    gpt-4."""
    if not isinstance(given, str):
        return False
    short, wanted = (name.lower().rstrip("/").rpartition("/")[2] for name in (given, asked))
    return re.fullmatch(rf"{re.escape(wanted.removesuffix('-latest'))}([-@:]({VERSION}))*", short) is not None


def without_thoughts(text: str) -> str:
    """What a model says after its thoughts, which a server without a parser for them sends along; nothing, if they don't end. The
    template may have written the tag that begins them."""
    if text.lstrip().startswith("<think>"):
        return text.partition("</think>")[2]
    _, found, rest = text.partition("</think>")
    return rest if found and not text.lstrip().startswith(("{", "```")) else text  # JSON that quotes the tag


def text_of(said: bytes) -> str:
    """A server's message as one short printable line."""
    line = "".join(c if c.isprintable() else " " for c in said.decode("utf-8", "replace"))
    return " ".join(line.split())[:SHOWN]


def _tokens(usage: Any) -> tuple[int, int] | None:
    counted = usage if isinstance(usage, dict) else {}
    sent, answered = counted.get("prompt_tokens"), counted.get("completion_tokens")
    if type(sent) is int and type(answered) is int and 0 < sent <= MOST_TOKENS and 0 <= answered <= MOST_TOKENS:
        return sent, answered
    return None


def _pause(headers: Any) -> float | None:
    """The Retry-After header in seconds, or None."""
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        elif (said := headers.get("retry-after", "")).strip()[:1].isdigit():
            seconds = float(said)
        else:
            seconds = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def as_failure(error: Exception, seconds: float) -> Failure:
    """The failure behind an exception that libraries have wrapped."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    if failures := [link for link in chain if isinstance(link, Failure)]:
        return failures[0]
    names = {type(link).__name__ for link in chain}
    if names & {"ConnectError", "ConnectTimeout"}:
        kind = "no connection"
    elif names & {"TimeoutError", "APITimeoutError"}:
        return Failure(f"no complete answer within {seconds:g} s", passes=True, paid=True)
    else:
        kind = "a broken connection"
    said = next((f"{type(link).__name__}: {link}" for link in reversed(chain) if str(link)), type(error).__name__)
    return Failure(kind, text_of(said.encode("utf-8", "replace")), passes=True, paid=kind != "no connection")
