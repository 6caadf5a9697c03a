"""Conversations, what was said about their replies, and the records they make."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from drift.data.rows import BadRow
from drift.records import Message, Record

Label = Literal["dsat", "sat", "both", "none"]
INVISIBLE = " \t\r\n\u200b\u200c\u200d\ufeff"  # some replies of ShareGPT hold nothing but a zero-width space
CATEGORIES = ("not_working", "factual", "ignored", "detail", "style", "revision", "quality", "negative")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known of a user's opinion of a reply. `category`: what displeased, one of CATEGORIES. `detector`: who says so
    ("source" where the data set itself does). `confidence`: probability that the label holds. `evidence`: the words it rests on."""

    label: Label
    category: str | None
    confidence: float
    detector: str
    evidence: str | None


def by_source(label: Label) -> Verdict:
    """What the data set itself says."""
    return Verdict(label=label, category=None, confidence=1.0, detector="source", evidence=None)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """User and assistant messages in turn, a system message first or not. `thread`: what is never split between training and
    held-out records (parts of one conversation, pairs of one prompt). `verdicts`: by index of the reply in `messages` (None: nobody
    has judged the replies yet). `revised`: a better reply than the one with that index, where the source has one beside the
    conversation. `flags`: what the source warns of ("toxic", "redacted"). `file`, `row`: where it begins."""

    id: str
    thread: str
    messages: Sequence[Message]
    verdicts: dict[int, Verdict] | None
    revised: dict[int, str]
    flags: tuple[str, ...]
    file: str
    row: int


ROLES = {
    "system": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
}  # fmt: skip


def to_messages(rows: Any, *, role: str, content: str, field: str) -> list[Message]:
    """The checked messages of a list of {role: …, content: …}; raises BadRow naming the first field that is wrong. Content may be a
    list of parts, as in OpenAI's format: texts are joined, anything else is refused."""
    if not isinstance(rows, list) or not rows:
        raise BadRow(field, f"a list of {{{role}, {content}}}", found(rows))
    messages: list[Message] = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise BadRow(f"{field}[{i}]", f"{{{role}, {content}}}", found(row))
        before = messages[-1]["role"] if messages else None
        allowed = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}[before]
        name = row.get(role)
        who = ROLES.get(name) if isinstance(name, str) else None
        if who is None or who not in allowed:
            raise BadRow(f"{field}[{i}].{role}", " or ".join(allowed), found(name))
        messages.append({"role": who, "content": to_text(row.get(content), f"{field}[{i}].{content}")})
    return messages


def last_user(messages: list[Message], field: str) -> list[Message]:
    """The messages of a prompt, which a user message ends; raises BadRow."""
    if messages[-1]["role"] != "user":
        raise BadRow(field, "a last message by the user", messages[-1]["role"])
    return messages


def to_text(value: Any, field: str) -> str:
    """Text that is not empty; raises BadRow."""
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None for part in value]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise BadRow(field, "text, or a list of text parts", found(value))
        value = "\n".join(parts)  # type: ignore[arg-type]
    if not isinstance(value, str) or not value.strip(INVISIBLE):
        raise BadRow(field, "text that is not empty", found(value))
    if printable(value) != value:
        raise BadRow(field, "text in valid Unicode", "half of a surrogate pair")
    return value.strip(INVISIBLE)


def printable(value: Any) -> str:
    """A value as text that can be written as UTF-8."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def found(value: Any) -> str:
    """A value as an error message shows it."""
    return "nothing" if value is None else f"{type(value).__name__} {printable(value)[:60]!r}"


def to_records(conversation: Conversation, source: str) -> Iterator[Record]:
    """A record for every reply that pleased or displeased; a reply that did both is a DSAT record (its complaint is what is learnt
    from). The prompt is all that stands before the reply. A better reply that the source gives beside a disliked one pleased."""
    verdicts, messages = conversation.verdicts or {}, conversation.messages

    def record(i: int, reply: str, label: Literal["dsat", "sat"], verdict: Verdict, name: str, **rest: Any) -> Record:
        provenance = {"source": source, "row": conversation.row, "turn": i, **asdict(verdict)}
        return Record(
            id=name, conversation=conversation.thread, prompt=messages[:i], reply=reply, label=label, ended=True, truth=None,
            provenance=provenance | {"confidence": round(verdict.confidence, 3)}, **rest,
        )  # fmt: skip

    for i, verdict in sorted(verdicts.items()):
        if verdict.label == "none":
            continue
        name, said = f"{conversation.id}:{i}", messages[i + 1]["content"] if i + 1 < len(messages) else None
        if verdict.label == "sat":
            yield record(i, messages[i]["content"], "sat", verdict, name, feedback=said, revised=None, satisfied=True)
            continue
        better = conversation.revised.get(i)
        later = verdicts.get(i + 2)
        after = messages[i + 2]["content"] if i + 2 < len(messages) else None
        satisfied = better is not None or (later is not None and later.label == "sat")
        yield record(i, messages[i]["content"], "dsat", verdict, name, feedback=said, revised=better or after, satisfied=satisfied)
        if better is not None:
            yield record(i, better, "sat", by_source("sat"), f"{name}:better", feedback=None, revised=None, satisfied=True)
