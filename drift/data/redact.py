"""E-mail addresses, phone numbers and secret keys, replaced by what they are: [EMAIL], [PHONE], [KEY].

Phone numbers are found by Google's phonenumbers (with a country code, or as the United States write them), keys by Yelp's
detect-secrets (tokens of known form: cloud and code-hosting keys, private keys, web tokens). A help against accidents, not
anonymity: names, addresses and account numbers stay.
"""

import re
from functools import cache
from typing import Any

EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(\.[\w-]+)+\b")
PLUGINS = (
    "AWSKeyDetector", "AzureStorageKeyDetector", "DiscordBotTokenDetector", "GitHubTokenDetector", "GitLabTokenDetector",
    "JwtTokenDetector", "MailchimpDetector", "NpmDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector",
    "SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)  # fmt: skip
REGION = "US"


def redact(text: str) -> str:
    from phonenumbers import PhoneNumberMatcher

    text = EMAIL.sub("[EMAIL]", text)
    for match in reversed(list(PhoneNumberMatcher(text, REGION))):
        text = f"{text[: match.start]}[PHONE]{text[match.end :]}"
    for plugin in _plugins():
        for secret in sorted(set(plugin.analyze_string(text)), key=len, reverse=True):
            text = text.replace(secret, "[KEY]")
    return text


@cache
def _plugins() -> list[Any]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    return [kind() for kind in get_mapping_from_secret_type_to_class().values() if kind.__name__ in PLUGINS]
