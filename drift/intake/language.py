"""The language of a text or of a conversation's user (the library py3langid, 141 languages)."""

from functools import cache
from typing import Any

from drift.intake.conversations import Conversation

LONGEST = 2000  # characters that are looked at
SURE = 0.4  # of 1,170 conversations of ShareGPT one in English is told otherwise; 18 short complaints in six languages are told
TAKEN_FOR_ENGLISH = {"pcm"}  # Nigerian Pidgin, which plain English is often taken for; not a choice


def language(conversation: Conversation) -> str:
    """ISO 639-1 code."""
    said = "\n".join(message["content"] for message in conversation.messages if message["role"] == "user")
    return str(identifier().classify(said[:LONGEST])[0])


def told(text: str) -> str | None:
    """ISO 639-1 code of a text; None where it is too short to tell, or no language (code, numbers)."""
    code, probability = identifier().classify(text[:LONGEST])
    return str(code) if probability >= SURE and code != "zxx" else None


@cache
def identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found.set_languages([code for code in found.labels if code not in TAKEN_FOR_ENGLISH])
    return found
