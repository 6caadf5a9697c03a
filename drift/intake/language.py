"""The language of a text or of a conversation's user (the library py3langid, 141 languages)."""

from functools import cache
from typing import Any

from drift.intake.conversations import Conversation

MAX_CHARACTERS = 2000  # characters that are examined
MIN_PROBABILITY = (
    0.4  # at this, 1 of 1,170 English ShareGPT conversations is misread, and 18 short complaints in six languages are recognised
)
TAKEN_FOR_ENGLISH = {"pcm"}  # Nigerian Pidgin, excluded: plain English is often mistaken for it


def user_language(conversation: Conversation) -> str:
    """The ISO 639-1 code of what the user wrote."""
    text = "\n".join(message["content"] for message in conversation.messages if message["role"] == "user")
    return str(identifier().classify(text[:MAX_CHARACTERS])[0])


def detect_language(text: str) -> str | None:
    """The ISO 639-1 code of a text; None if it is too short to tell, or not a language (code, numbers)."""
    code, probability = identifier().classify(text[:MAX_CHARACTERS])
    return str(code) if probability >= MIN_PROBABILITY and code != "zxx" else None


@cache
def identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    result = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    result.set_languages([code for code in result.labels if code not in TAKEN_FOR_ENGLISH])
    return result
