"""The language that a conversation's user writes (the library py3langid, 97 languages)."""

from drift.data.conversations import Conversation

LONGEST = 2000  # characters that are looked at


def language(conversation: Conversation) -> str:
    """ISO 639-1 code."""
    from py3langid import classify

    said = "\n".join(message["content"] for message in conversation.messages if message["role"] == "user")
    return str(classify(said[:LONGEST])[0])
