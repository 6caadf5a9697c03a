"""Keeps secrets out of everything that leaves the program: console, errors, run folder, reports, W&B.

A secret is the value of an environment variable with a name like OPENAI_API_KEY or HF_TOKEN, any other value that the caller knows
to be secret, and whatever is between :// and @ in a URL. Users' logs and the replies made from them are never changed by this; for
them there is `intake.redact`."""

import os
import re
from typing import Any
from urllib.parse import quote

HIDDEN = "[secret]"
NAMED = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
IN_URL = re.compile(r"(?<=://)[^\s/?#@'\"]+(?:@[^\s/?#@'\"]+)*(?=@)")  # a password may contain an @
SHORTEST, SHORTEST_TOLD = 8, 4  # characters; shorter values are words ("none", "EMPTY"), not secrets


def mask(text: str, *secrets: str) -> str:
    """The text without secrets. `secrets`: further secrets that are not in such variables."""
    return _without(text, _forms(secrets))


def masked(value: Any) -> Any:
    """Plain data without secrets."""
    return _walk(value, _forms(()))


def _forms(secrets: tuple[str, ...]) -> list[str]:
    """All forms in which secrets may be written, longest first."""
    known = {value for name, value in os.environ.items() if NAMED.search(name) and len(value) >= SHORTEST}
    known |= {part for value in known for part in value.split() if len(part) >= SHORTEST}  # of "Basic …"
    known |= {part for value in secrets for part in (value, *value.split()) if len(part) >= SHORTEST_TOLD and part != "Basic"}
    return sorted({form for value in known for form in (value, quote(value, safe=""), repr(value)[1:-1])}, key=len, reverse=True)


def _without(text: str, forms: list[str]) -> str:
    for form in forms:
        text = text.replace(form, HIDDEN)
    return IN_URL.sub(HIDDEN, text) if "://" in text else text


def _walk(value: Any, forms: list[str]) -> Any:
    if isinstance(value, str):
        return _without(value, forms)
    if isinstance(value, dict):
        return {_walk(name, forms): _walk(inner, forms) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_walk(inner, forms) for inner in value]
    return value
