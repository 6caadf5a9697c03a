"""Conversations, what was said about their replies, and the records they make."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from drift.intake.aside import printable
from drift.records import Message, Record, digest

Label = Literal["dsat", "sat", "both", "none"]
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


def by_source(label: Label, evidence: str | None = None) -> Verdict:
    """What the data set itself says."""
    return Verdict(label=label, category=None, confidence=1.0, detector="source", evidence=evidence)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """User and assistant messages in turn, a system message first or not. `thread`: what is never split between training and
    held-out records (parts of one conversation, pairs of one prompt). `verdicts`: by index of the reply in `messages` (None: nobody
    has judged the replies yet). `revised`: a better reply than the one with that index, where the source has one beside the
    conversation. `comments`: the user's words about the reply with that index, where they stand beside it. `spoken_of`: replies
    that the user's next turn speaks of (a complaint, thanks); after others it may be a new question. `from_tools`: replies that
    rest on a tool's results, which a prompt here does not hold. `flags`: what the source warns of ("toxic", "redacted"). `file`,
    `row`: where it begins."""

    id: str
    thread: str
    messages: Sequence[Message]
    verdicts: dict[int, Verdict] | None
    revised: dict[int, str]
    flags: tuple[str, ...]
    file: str
    row: int
    comments: Mapping[int, str] = field(default_factory=dict)
    spoken_of: Collection[int] = ()
    from_tools: Collection[int] = ()


def named(conversations: Iterable[Conversation], counts: Counter[str]) -> Iterator[Conversation]:
    """Every conversation by an id of its own: where several rows have one id, later ones get their place added. They count as one
    conversation, never split, only if they begin alike: an id that different conversations share is a tenant's or a user's."""
    begins: dict[str, str] = {}
    for conversation in conversations:
        first = digest([message for message in conversation.messages[:2] if message["role"] != "assistant"])[:16]
        if conversation.id in begins:
            counts["conversations whose id an earlier one has too"] += 1
            other = conversation.thread == conversation.id and begins[conversation.id] != first
            name = f"{conversation.id} ({conversation.file}:{conversation.row})"
            conversation = replace(conversation, id=name, thread=name if other else conversation.thread)
        else:
            begins[conversation.id] = first
        yield conversation


def to_records(conversation: Conversation, source: str) -> Iterator[Record]:
    """A record for every reply that pleased or displeased; a reply that did both is a DSAT record (its complaint is what is learnt
    from). The prompt is all that stands before the reply. The feedback is the user's comment, else the next turn if that speaks of
    the reply; what follows such a turn is the later reply. A better reply that the source gives beside a disliked one pleased."""
    verdicts, messages = conversation.verdicts or {}, conversation.messages

    def record(i: int, reply: str, label: Literal["dsat", "sat"], verdict: Verdict, name: str, **rest: Any) -> Record:
        provenance = {"source": source, "file": conversation.file, "row": conversation.row, "turn": i, **asdict(verdict)}
        if verdict.evidence is not None:
            provenance["evidence"] = printable(verdict.evidence)
        return Record(
            id=name, conversation=conversation.thread, prompt=messages[:i], reply=reply, label=label, ended=True, truth=None,
            provenance=provenance | {"confidence": round(verdict.confidence, 3)}, **rest,
        )  # fmt: skip

    for i, verdict in sorted(verdicts.items()):
        if verdict.label == "none" or i in conversation.from_tools:
            continue
        name, spoken_of = f"{conversation.id}:{i}", i in conversation.spoken_of
        said = conversation.comments.get(i) or (messages[i + 1]["content"] if spoken_of else None)
        if verdict.label == "sat":
            yield record(i, messages[i]["content"], "sat", verdict, name, feedback=said, revised=None, satisfied=True)
            continue
        better = conversation.revised.get(i)
        answered = spoken_of and i + 2 < len(messages) and i + 2 not in conversation.from_tools
        after, later = (messages[i + 2]["content"], verdicts.get(i + 2)) if answered else (None, None)
        satisfied = better is not None or (later is not None and later.label == "sat")
        yield record(i, messages[i]["content"], "dsat", verdict, name, feedback=said, revised=better or after, satisfied=satisfied)
        if better is not None:
            yield record(i, better, "sat", by_source("sat"), f"{name}:better", feedback=None, revised=None, satisfied=True)
