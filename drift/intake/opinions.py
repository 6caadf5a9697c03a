"""What users thought of the replies: from clicks and comments if the log has them, else classified by the miner from the next turn.

A click says nothing about the turn after it, which may be a new question. So that turn is classified too: it counts as a complaint
about a disliked reply, or as thanks for a liked one, only if the miner's rules, or else the miner itself, say so. A comment without
a click is classified in the same way.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from drift.intake.aside import Aside, Asides
from drift.intake.conversations import Conversation, Label, Opinion
from drift.mine import rules
from drift.records import Message, Record, digest

REFUSAL = re.compile(r"\W*no\b(?! (thanks|thank you|problem|worries|need|matter))", re.IGNORECASE)  # enough after a thumb down
FITS: dict[Label, tuple[Label, ...]] = {"dsat": ("dsat", "both"), "sat": ("sat", "both"), "both": ("dsat", "sat", "both")}


def with_opinions(conversations: Sequence[Conversation], miner: Any) -> list[Conversation]:
    """The same conversations with `opinions` and `spoken_of` filled in."""
    unknown = [i for i, conversation in enumerate(conversations) if conversation.opinions is None]
    by_turn = dict(zip(unknown, miner.classify([list(conversations[i].messages) for i in unknown]) if unknown else [], strict=True))
    texts = [(i, at, text) for i, conversation in enumerate(conversations) for at, text in _texts_to_classify(conversation)]
    talks = [[*conversations[i].messages[at - 1 : at + 1], {"role": "user", "content": text}] for i, at, text in texts]
    by_text: dict[int, dict[int, Opinion]] = {}
    for (i, at, text), opinion in zip(texts, _classify(talks, miner), strict=True):
        clicked = (conversations[i].opinions or {}).get(at)
        if clicked is not None and clicked.label == "dsat" and opinion.label == "none" and REFUSAL.match(text):
            opinion = replace(opinion, label="dsat")
        by_text.setdefault(i, {})[at] = opinion
    return [_merge_opinions(conversation, by_turn.get(i), by_text.get(i, {})) for i, conversation in enumerate(conversations)]


def _classify(talks: Sequence[list[Message]], miner: Any) -> list[Opinion]:
    """For each (request, reply, text), the opinion of the reply that the text expresses."""
    opinions = [rules.opinion(*rules.turn(talk, 1)) for talk in talks]
    silent = [i for i, opinion in enumerate(opinions) if opinion.label == "none"]
    for i, found in zip(silent, miner.classify([talks[i] for i in silent]) if silent else [], strict=True):
        opinions[i] = found[1]
    return opinions


def _texts_to_classify(conversation: Conversation) -> Iterator[tuple[int, str]]:
    """(index of the reply, text) for each comment without a click, and for the turn after each clicked reply."""
    opinions, messages = conversation.opinions or {}, conversation.messages
    yield from ((at, text) for at, text in conversation.comments.items() if at not in opinions)
    for at, opinion in opinions.items():
        if opinion.label != "none" and at + 1 < len(messages) and at not in conversation.spoken_of:
            yield at, messages[at + 1]["content"]


def _merge_opinions(
    conversation: Conversation, by_turn: Mapping[int, Opinion] | None, by_text: Mapping[int, Opinion]
) -> Conversation:
    """`by_turn`: from the next turns, in conversations without clicks; `by_text`: from `_texts_to_classify`."""
    clicked = conversation.opinions or {}
    by_comment = {at: opinion for at, opinion in by_text.items() if at not in clicked and opinion.label != "none"}
    opinions = {**clicked, **(by_turn or {}), **by_comment}
    from_turns = by_turn if by_turn is not None else {at: opinion for at, opinion in by_text.items() if at in clicked}
    spoken_of = {at for at, opinion in from_turns.items() if opinion.label in FITS.get(opinions[at].label, ())}
    return replace(conversation, opinions=opinions, spoken_of=spoken_of | set(conversation.spoken_of))


class Votes:
    """Counts what users thought of the same reply to the same prompt; the majority decides."""

    def __init__(self) -> None:
        self.by_reply: dict[str, list[int]] = {}

    def count(self, record: Record) -> None:
        self.by_reply.setdefault(_reply_key(record), [0, 0])[record.label == "sat"] += 1

    def against(self, record: Record) -> str | None:
        """The votes, if at least as many users disagree with the record's label as agree; None if most agree."""
        dsat, sat = self.by_reply.get(_reply_key(record), (0, 0))
        own, other = (sat, dsat) if record.label == "sat" else (dsat, sat)
        return f"{dsat} DSAT, {sat} SAT" if other and other >= own else None

    def contradictory(self) -> int:
        return sum(all(votes) for votes in self.by_reply.values())


def keep_majority(records: list[Record], votes: Votes, aside: Asides) -> list[Record]:
    """The records whose label agrees with most votes on the reply; none in a tie."""
    kept = []
    for record in records:
        disagreement = votes.against(record)
        if disagreement is None:
            kept.append(record)
            continue
        place = record.provenance or {}
        aside.append(
            Aside(
                file=place["file"],
                row=place["row"],
                field="messages",
                expected="most votes on this reply to agree with the label",
                found=disagreement,
                reason="contradictory votes",
                remedy="none: only the majority's records are used, and none in a tie",
            )  # fmt: skip
        )
    return kept


def why_unused(conversation: Conversation, tools: bool) -> Aside:
    """Why none of the conversation's replies is used: because of `tools`, or because the miner can't interpret the comment."""
    place = {"file": conversation.file, "row": conversation.row, "field": "messages"}
    if tools:
        return Aside(
            **place, expected="a reply with feedback and without a tool call", found="a tool call before each", reason="tool call",
            remedy="none: prompts here can't contain tool results",
        )  # fmt: skip
    comment = next(iter(conversation.comments.values()))
    return Aside(
        **place, expected="a click beside the comment, or a comment that the miner understands", found=repr(comment[:60]),
        reason="unclear comment", remedy='add a mark, "feedback": "up" or "down", and keep the words as "comment"',
    )  # fmt: skip


def _reply_key(record: Record) -> str:
    return digest([list(record.prompt), record.reply])[:32]
