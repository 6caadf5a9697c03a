"""Conversations, what users thought of the replies in them, and the records made from both."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from drift.intake.aside import printable
from drift.records import Message, Record, digest

Label = Literal["dsat", "sat", "both", "none"]
CATEGORIES = ("not_working", "factual", "ignored", "detail", "style", "revision", "quality", "negative")


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """A user's opinion of a reply. `category`: what was wrong, one of CATEGORIES. `detector`: where the label comes from ("source":
    the data set itself). `confidence`: the probability that the label is right. `evidence`: the words that it rests on."""

    label: Label
    category: str | None
    confidence: float
    detector: str
    evidence: str | None


def by_source(label: Label, evidence: str | None = None) -> Opinion:
    """An opinion that the data set itself states."""
    return Opinion(label=label, category=None, confidence=1.0, detector="source", evidence=evidence)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Alternating user and assistant messages, with or without a system message before them. `thread`: records of one thread are
    never split between training and held-out (parts of a conversation, pairs of a prompt). `opinions`: by the reply's index in
    `messages` (None: the miner has not read the conversation yet). `revised`: a better reply than the one with that index, if the
    source has one. `comments`: the user's comment on the reply with that index. `spoken_of`: replies that the user's next turn is
    about (a complaint, thanks); after any other reply it may be a new question. `from_tools`: replies that rest on tool results,
    which prompts here do not contain. `flags`: warnings by the source ("toxic", "redacted"). `file`, `row`: where it begins."""

    id: str
    thread: str
    messages: Sequence[Message]
    opinions: dict[int, Opinion] | None
    revised: dict[int, str]
    flags: tuple[str, ...]
    file: str
    row: int
    comments: Mapping[int, str] = field(default_factory=dict)
    spoken_of: Collection[int] = ()
    from_tools: Collection[int] = ()


def with_unique_ids(conversations: Iterable[Conversation], counts: Counter[str]) -> Iterator[Conversation]:
    """The conversations with unique ids: where several rows have the same id, file and row are added to the later ones. They stay
    one thread only if they begin alike; an id shared by different conversations is a tenant's or a user's."""
    beginnings: dict[str, str] = {}
    for conversation in conversations:
        first = digest([message for message in conversation.messages[:2] if message["role"] != "assistant"])[:16]
        if conversation.id in beginnings:
            counts["conversations with the id of an earlier one"] += 1
            differs = conversation.thread == conversation.id and beginnings[conversation.id] != first
            name = f"{conversation.id} ({conversation.file}:{conversation.row})"
            conversation = replace(conversation, id=name, thread=name if differs else conversation.thread)
        else:
            beginnings[conversation.id] = first
        yield conversation


def to_records(conversation: Conversation, source: str) -> Iterator[Record]:
    """A record for every reply that the user liked or disliked. A reply with praise and a complaint is a DSAT record: the complaint
    is what training uses. The prompt is everything before the reply. The feedback is the user's comment, or else the next turn if
    it is about the reply; the reply after such a turn is `revised`. A better reply given by the source is a SAT record."""
    opinions, messages = conversation.opinions or {}, conversation.messages

    def record(i: int, reply: str, label: Literal["dsat", "sat"], opinion: Opinion, name: str, **rest: Any) -> Record:
        provenance = {"source": source, "file": conversation.file, "row": conversation.row, "turn": i, **asdict(opinion)}
        if opinion.evidence is not None:
            provenance["evidence"] = printable(opinion.evidence)
        return Record(
            id=name, conversation=conversation.thread, prompt=messages[:i], reply=reply, label=label, ended=True, truth=None,
            provenance=provenance | {"confidence": round(opinion.confidence, 3)}, **rest,
        )  # fmt: skip

    for i, opinion in sorted(opinions.items()):
        if opinion.label == "none" or i in conversation.from_tools:
            continue
        name, spoken_of = f"{conversation.id}:{i}", i in conversation.spoken_of
        feedback = conversation.comments.get(i) or (messages[i + 1]["content"] if spoken_of else None)
        if opinion.label == "sat":
            yield record(i, messages[i]["content"], "sat", opinion, name, feedback=feedback, revised=None, satisfied=True)
            continue
        better = conversation.revised.get(i)
        has_answer = spoken_of and i + 2 < len(messages) and i + 2 not in conversation.from_tools
        after, later = (messages[i + 2]["content"], opinions.get(i + 2)) if has_answer else (None, None)
        satisfied = better is not None or (later is not None and later.label == "sat")
        yield record(
            i, messages[i]["content"], "dsat", opinion, name, feedback=feedback, revised=better or after, satisfied=satisfied
        )
        if better is not None:
            yield record(i, better, "sat", by_source("sat"), f"{name}:better", feedback=None, revised=None, satisfied=True)
