"""What users thought of the replies: by their clicks and comments where the log has them, else by the miner, off their next turn.

A click says nothing of the turn after it, which may be a new question. So that turn is read too: it is a complaint about a disliked
reply, or thanks for a liked one, only if the miner's rules say so or, where they see nothing, the miner. A comment without a click
is read in the same way.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from drift.intake.aside import Aside, Asides
from drift.intake.conversations import Conversation, Label, Verdict
from drift.mine import rules
from drift.records import Message, Record, digest

REFUSAL = re.compile(r"\W*no\b(?! (thanks|thank you|problem|worries|need|matter))", re.IGNORECASE)  # enough after a thumb down
FITS: dict[Label, tuple[Label, ...]] = {"dsat": ("dsat", "both"), "sat": ("sat", "both"), "both": ("dsat", "sat", "both")}


def judged(conversations: Sequence[Conversation], miner: Any) -> list[Conversation]:
    """The same conversations with verdicts, and with the replies that the users' next turns speak of."""
    unknown = [i for i, conversation in enumerate(conversations) if conversation.verdicts is None]
    by_turn = dict(zip(unknown, miner.judge([list(conversations[i].messages) for i in unknown]) if unknown else [], strict=True))
    asked = [(i, at, said) for i, conversation in enumerate(conversations) for at, said in _words(conversation)]
    talks = [[*conversations[i].messages[at - 1 : at + 1], {"role": "user", "content": said}] for i, at, said in asked]
    read: dict[int, dict[int, Verdict]] = {}
    for (i, at, said), verdict in zip(asked, _read(talks, miner), strict=True):
        clicked = (conversations[i].verdicts or {}).get(at)
        if clicked is not None and clicked.label == "dsat" and verdict.label == "none" and REFUSAL.match(said):
            verdict = replace(verdict, label="dsat")
        read.setdefault(i, {})[at] = verdict
    return [_with_verdicts(conversation, by_turn.get(i), read.get(i, {})) for i, conversation in enumerate(conversations)]


def _read(talks: Sequence[list[Message]], miner: Any) -> list[Verdict]:
    """The verdict of the last of three messages on the one before it."""
    verdicts = [rules.verdict(*rules.turn(talk, 1)) for talk in talks]
    silent = [i for i, verdict in enumerate(verdicts) if verdict.label == "none"]
    for i, found in zip(silent, miner.judge([talks[i] for i in silent]) if silent else [], strict=True):
        verdicts[i] = found[1]
    return verdicts


def _words(conversation: Conversation) -> Iterator[tuple[int, str]]:
    """(reply, words) of comments that go with no click, and of the turns after a clicked reply."""
    verdicts, messages = conversation.verdicts or {}, conversation.messages
    yield from ((at, said) for at, said in conversation.comments.items() if at not in verdicts)
    for at, verdict in verdicts.items():
        if verdict.label != "none" and at + 1 < len(messages) and at not in conversation.spoken_of:
            yield at, messages[at + 1]["content"]


def _with_verdicts(conversation: Conversation, by_turn: Mapping[int, Verdict] | None, read: Mapping[int, Verdict]) -> Conversation:
    """`by_turn`: the miner's verdicts where nobody clicked; `read`: those on `_words`."""
    clicked = conversation.verdicts or {}
    by_comment = {at: verdict for at, verdict in read.items() if at not in clicked and verdict.label != "none"}
    verdicts = {**clicked, **(by_turn or {}), **by_comment}
    of_turns = by_turn if by_turn is not None else {at: verdict for at, verdict in read.items() if at in clicked}
    spoken_of = {at for at, verdict in of_turns.items() if verdict.label in FITS.get(verdicts[at].label, ())}
    return replace(conversation, verdicts=verdicts, spoken_of=spoken_of | set(conversation.spoken_of))


class Votes:
    """What users said of the same reply to the same prompt; whether a reply pleased is then a matter of the majority."""

    def __init__(self) -> None:
        self.of: dict[str, list[int]] = {}

    def count(self, record: Record) -> None:
        self.of.setdefault(_text(record), [0, 0])[record.label == "sat"] += 1

    def against(self, record: Record) -> str | None:
        """The votes, if as many or more users disagree with the record's label as agree; None if most agree."""
        dsat, sat = self.of.get(_text(record), (0, 0))
        own, other = (sat, dsat) if record.label == "sat" else (dsat, sat)
        return f"{dsat} DSAT, {sat} SAT" if other and other >= own else None

    def contradictory(self) -> int:
        return sum(all(votes) for votes in self.of.values())


def agreed(records: list[Record], votes: Votes, aside: Asides) -> list[Record]:
    """The records whose label most votes on the reply agree with; of a tie, none."""
    kept = []
    for record in records:
        said = votes.against(record)
        if said is None:
            kept.append(record)
            continue
        place = record.provenance or {}
        aside.append(
            Aside(
                file=place["file"],
                row=place["row"],
                field="messages",
                expected="most votes on this reply to agree",
                found=said,
                reason="contradictory votes",
                remedy="none: the majority's record is used, and neither of a tie",
            )  # fmt: skip
        )
    return kept


def unused(conversation: Conversation, tools: bool) -> Aside:
    """Why none of the conversation's replies is used: `tools`, or because a comment stands alone and the miner can't read it."""
    place = {"file": conversation.file, "row": conversation.row, "field": "messages"}
    if tools:
        return Aside(
            **place, expected="a judged reply without a tool call", found="a tool call before each", reason="tool call",
            remedy="none: a prompt here does not hold a tool's results",
        )  # fmt: skip
    said = next(iter(conversation.comments.values()))
    return Aside(
        **place, expected="a click beside the comment, or words that the miner understands", found=repr(said[:60]),
        reason="comment without a verdict", remedy='add "feedback": "up" or "down"',
    )  # fmt: skip


def _text(record: Record) -> str:
    return digest([list(record.prompt), record.reply])[:32]
