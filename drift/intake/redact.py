"""Replaces e-mail addresses, phone numbers and secret keys by placeholders: [EMAIL], [PHONE], [KEY].

Phone numbers are found by Google's phonenumbers (with a country code, or as the United States write them), keys by Yelp's
detect-secrets (tokens of known formats: cloud and code-hosting keys, private keys, web tokens). This guards against accidents; it
is not anonymisation: names, addresses and account numbers stay.

Time is linear in the length of the text: expressions that would search for a key's end from every possible start get the text in
windows.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]++@[\w-]+(\.[\w-]+)+\b")  # starts only where no longer address with the same "@" does
KEY_END = re.compile(r"[\w.+/=-]{0,16384}")
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL)
WINDOW, OVERLAP = 4096, 512  # characters; a key is shorter than the overlap, or continues past its window
NEEDED = {
    "OpenAIDetector": "T3BlbkFJ",
    "NpmDetector": "_authToken=",
    "JwtTokenDetector": "eyJ",
}  # without this text, a plugin finds nothing
PLUGINS = (
    "AWSKeyDetector", "AzureStorageKeyDetector", "DiscordBotTokenDetector", "GitHubTokenDetector", "GitLabTokenDetector",
    "JwtTokenDetector", "MailchimpDetector", "NpmDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector",
    "SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)  # fmt: skip
REGION = "US"


def redact(text: str) -> str:
    from phonenumbers import Leniency, PhoneNumberMatcher

    text = EMAIL.sub("[EMAIL]", text)
    numbers = PhoneNumberMatcher(text, REGION, Leniency.VALID, sys.maxsize)
    text = replaced(text, ((match.start, match.end) for match in numbers), "[PHONE]")
    text = PRIVATE_KEY.sub("[KEY]", text)
    return replaced(text, _keys(text), "[KEY]")


def replaced(text: str, spans: Iterable[tuple[int, int]], by: str) -> str:
    """The text with every (start, end) replaced by `by`; overlapping spans count as one."""
    parts, at = [], 0
    for start, end in sorted(spans):
        if start >= at:
            parts += [text[at:start], by]
        at = max(at, end)
    return "".join([*parts, text[at:]])


def _keys(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of what the plugins take for a key. They may return only a part of it ("ghp" of a GitHub token), so their
    expressions are used directly."""
    for begin in range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP):
        window = text[begin : begin + WINDOW]
        for plugin in _plugins():
            if NEEDED.get(type(plugin).__name__, "") not in window:
                continue
            for match in (match for expression in plugin.denylist for match in expression.finditer(window)):
                start, end = begin + match.start(), begin + match.end()
                if match.end() == len(window) and (rest := KEY_END.match(text, end)) is not None:
                    end = rest.end()
                if start < end and (type(plugin).__name__ != "JwtTokenDetector" or plugin.is_formally_valid(text[start:end])):
                    yield start, end


@cache
def _plugins() -> list[Any]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    return [kind() for kind in get_mapping_from_secret_type_to_class().values() if kind.__name__ in PLUGINS]
