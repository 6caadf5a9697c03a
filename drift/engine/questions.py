"""The state of the questions that are being asked of a server, and what is said about answers that are of no use."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from drift.console import say
from drift.engine import answer
from drift.errors import UserError
from drift.records import Message

GIVE_UP = 10  # after this many unanswered questions in a row, the others would fail too
SHOWN = 200  # characters of an answer that can't be read
INVALID = ("status 400", "status 422")
LIMITS = ("max_tokens", "max_completion_tokens")  # fields that bound the length of an answer
OWN = ("model", "messages", "n", "stream")  # fields that answers can't be read without


@dataclass
class Questions:
    """The state of the questions: `answers` by name (None: nothing to use), `failures` by kind. `tick` is called with the name of
    each answered question."""

    answers: dict[str, answer.Answer | None]
    tick: Callable[[str], None]
    failures: Counter[str] = field(default_factory=Counter)
    last: str = ""
    in_a_row: int = 0
    capped: bool = False

    def failed(self, failure: answer.Failure) -> None:
        self.failures[failure.kind] += 1
        self.last = str(failure)
        self.in_a_row += 1

    def gave_up(self) -> bool:
        return self.in_a_row >= GIVE_UP

    def describe_failures(self, wanted: int) -> str:
        """The failures in words, with counts."""
        kinds = "; ".join(f"{count} x {kind}" for kind, count in self.failures.most_common())
        rest = f", the last {GIVE_UP} in a row, so the rest were not asked" if self.gave_up() else ""
        return f"left {self.failures.total()} of the {wanted} questions unanswered ({kinds}{rest}). The last: {self.last}."

    def advice(self, setting: str, invalid: str) -> list[str]:
        """What may help. `setting`: the endpoint's; `invalid`: if the server calls a request invalid."""
        found = []
        if any("of the model" in kind for kind in self.failures):
            found.append(f"If that is the right model under another name, set {setting}.answers_as=NAME.")
        if not self.failures.keys().isdisjoint(INVALID):
            found += [invalid] if invalid else []
            found.append(
                f"A field that it refuses is changed, or left out (null), by {setting}.fields, for example "
                f"++{setting}.fields.temperature=null (docs/settings.md)."
            )
        return found


def check_url(url: str, setting: str) -> None:
    """Refuses a URL that may contain a secret, because URLs are stored with the results. `setting`: the endpoint's, for
    the message."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, valid = urlsplit(""), False
    if not valid or parts.query or parts.fragment or "@" in parts.netloc:
        raise UserError(
            f"{setting}.url: expected http://HOST:PORT/v1 or https://…, without user name, password, ? or #. The "
            "value is not repeated here, since it may contain a secret. A secret belongs in the environment variable named by "
            f"{setting}.key_variable: a key, or 'Basic …' with user:password in base64."
        )


def check_fields(fields: Mapping[str, Any], setting: str) -> None:
    """Refuses fields of an endpoint that its requests can't do without, or with. `setting`: the endpoint's."""
    if own := sorted(set(fields) & set(OWN)):
        raise UserError(f"{setting}.fields.{own[0]}: this field is the program's. Leave it out.")
    given = {name: fields[name] for name in LIMITS if name in fields}
    if wrong := [name for name, value in given.items() if value is not None and (type(value) is not int or value < 1)]:
        raise UserError(f"{setting}.fields.{wrong[0]}={given[wrong[0]]}: expected a whole number of at least 1.")
    if given and not any(given.values()):
        raise UserError(
            f"{setting}.fields.max_tokens=null leaves answers without a limit, so a cap could not be kept. Give the other one: "
            f"++{setting}.fields.max_completion_tokens=4000."
        )


def with_fields(request: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The request with these fields instead of its own; null leaves one out."""
    if not fields:
        return request
    rest = {name: value for name, value in request.items() if name not in fields}
    given = json.loads(json.dumps({name: value for name, value in fields.items() if value is not None}))  # keys become texts
    return rest | {"extra_body": {**rest.get("extra_body", {}), **given}}


def limit(fields: Mapping[str, Any], setting: str, otherwise: str) -> str:
    """What bounds the length of an answer, in words: a field of the endpoint, or what the program sends `otherwise`."""
    given = [f"{setting}.fields.{name}={fields[name]}" for name in LIMITS if fields.get(name) is not None]
    return ", ".join(given) or otherwise


def most_tokens(request: dict[str, Any]) -> tuple[int, int]:
    """The most tokens that a request may send, and be answered with: no token is shorter than a byte."""
    sent = sum(len(text.encode("utf-8", "replace")) + 16 for message in request["messages"] for text in message.values())
    fields = request | request.get("extra_body", {})
    return sent, max(fields[name] for name in LIMITS if name in fields)


def sendable(message: Message) -> Message:
    """The message without lone surrogates, which can't be sent."""
    return {name: text.encode("utf-8", "replace").decode() for name, text in message.items()}


def refuse_empty(num_empty: int, wanted: int, url: str, setting: str, limit: str) -> None:
    """Raises UserError about answers without a text. `setting`: of the judge, which has a `without_answer`; `limit`: what bounds
    the length of an answer."""
    raise UserError(
        f"{num_empty} of {wanted} questions got an answer without a text from {url} (a filter, or a model that thinks for longer "
        f"than {limit}). The other answers are kept. The same command asks these questions again. {setting}.without_answer=skip "
        "leaves out what these questions are about."
    )


def say_unread(unread: Sequence[str], wanted: int) -> None:
    """Shows one of the answers that can't be read."""
    say(f"  {len(unread)} of the first {wanted} answers can't be read, and make no score. For example: {unread[0][:SHOWN]!r}")
