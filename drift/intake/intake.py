"""From a log's conversations to records: checked, judged, chosen. The same for every source; every row is used or set aside.

A source is a dataclass with `path`, `name` and `version` (of its reading), `check()`, `files()` and `conversations(file)`, which
yields a `Conversation`, a finished `Record` or an `Aside` for every row. Memory does not grow with the file: only records are
kept, and `max_records` of them at most.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal

from drift.console import Progress
from drift.errors import UserError, need_package
from drift.intake.aside import Aside, Asides
from drift.intake.collected import Collected
from drift.intake.conversations import Conversation, Verdict, named, to_records
from drift.intake.duplicates import Seen, duplicate
from drift.intake.files import Content, content, not_read
from drift.intake.opinions import Votes, agreed, judged, unused
from drift.intake.rows import position, up_to
from drift.records import Record, digest

VERSION = 3
TOGETHER = 512  # conversations that the miner gets at once


@dataclass(frozen=True, kw_only=True)
class Intake:
    """`records_per_conversation`: all, or one (chosen by the seed). `max_records`: a random choice of so many by `seed` (null:
    all). `languages`: codes to keep (null: all). `near_duplicates`: records whose words (in fives) overlap by this share with those
    of an earlier one are dropped (null: only equal ones); see duplicates.py. `drop_flagged`: what the source's own flags exclude.
    `redact`: e-mail addresses, phone numbers and keys are replaced by their kind. `leakage`: what is done with training records
    whose prompts the evaluation asks."""

    records_per_conversation: Literal["all", "one"]
    max_records: int | None
    seed: int
    languages: list[str] | None
    near_duplicates: float | None
    drop_flagged: list[str]
    redact: bool
    leakage: Literal["remove", "refuse", "keep"]

    def check(self) -> None:
        if self.max_records is not None and self.max_records < 1:
            raise UserError(f"intake.max_records={self.max_records}: expected at least 1, or null for all.")
        if self.near_duplicates is not None:
            if not 0.5 <= self.near_duplicates < 1:
                raise UserError(f"intake.near_duplicates={self.near_duplicates}: expected at least 0.5 and below 1, or null.")

    def check_packages(self) -> None:
        """What reading a log needs beside the plain installation."""
        need_package("datasketch", "Reading a log (near-duplicates, leakage)", extra="logs")
        if self.languages is not None:
            need_package("py3langid", "intake.languages", extra="logs")
        if self.redact:
            need_package("phonenumbers", "intake.redact", extra="logs")
            need_package("detect_secrets", "intake.redact", extra="logs")

    def key(self, source: Any, miner: Any, log: Sequence[Content] | None = None) -> dict[str, Any]:
        """`log`: what the source's files hold (None: now)."""
        return {
            "intake": VERSION,
            "source": source.name,
            "version": source.version,
            "reading": {name: value for name, value in asdict(source).items() if name != "path"},
            "files": [file.sha256 for file in log or contents(source)],
            "settings": {name: value for name, value in asdict(self).items() if name != "leakage"},
            "miner": miner.key(),
        }

    def collect(self, source: Any, miner: Any, log: Sequence[Content] | None = None) -> Collected:
        """The records of a log and what was set aside. `log`: what the source's files hold, which is what is read (None: now)."""
        log = log or contents(source)
        counts: Counter[str] = Counter()
        aside = Asides(counts)
        chosen, votes, seen = Choice(self.max_records, self.seed), Votes(), Seen(self.near_duplicates)
        miner.counts.clear()
        for conversation in named(self._judged(self._wanted(source, log, aside, counts, chosen), miner, aside, counts), counts):
            records = []
            for record in to_records(self._redacted(conversation), source.name):
                if not conversation.revised:  # of a pair a reply is only better or worse than the other one
                    votes.count(record)
                if (twin := seen.before(record)) is None:
                    records.append(record)
                else:
                    aside.append(duplicate(conversation, twin))
            if self.records_per_conversation == "one":
                records = sorted(records, key=lambda record: digest([self.seed, record.key]))[:1]
            for record in records:
                counts[f"{record.label.upper()} replies found"] += 1
                chosen.offer(record)
        aside.extend(not_read(source.path, {file.file for file in log}))
        if contradictory := votes.contradictory():
            counts["replies with contradictory votes"] = contradictory
        kept = agreed(chosen.records(), votes, aside)
        return Collected(records=kept, set_aside=list(aside.plain()), facts=dict(counts + miner.counts))

    def _wanted(
        self, source: Any, log: Sequence[Content], aside: Asides, counts: Counter[str], chosen: "Choice"
    ) -> Iterator[Conversation]:
        """Well-formed conversations in a language and with flags that are wanted; finished records are chosen from at once."""
        for item in watched(source, log):
            counts["rows read" if isinstance(item, Record) else "conversations read"] += 1
            if isinstance(item, Record):
                chosen.offer(item)
            elif isinstance(item, Aside):
                aside.append(item)
            elif (reason := self._unwanted(item)) is not None:
                aside.append(reason)
            else:
                counts.update(f"used although flagged: {flag}" for flag in item.flags)
                yield item

    def _unwanted(self, conversation: Conversation) -> Aside | None:
        place = {"file": conversation.file, "row": conversation.row}
        flagged = [flag for flag in conversation.flags if flag in self.drop_flagged]
        if flagged:
            return Aside(
                **place, field=flagged[0], expected="not flagged by the source", found="flagged", reason=flagged[0],
                remedy=f"intake.drop_flagged without {flagged[0]} keeps it",
            )  # fmt: skip
        if self.languages is not None:
            from drift.intake.language import language

            spoken = language(conversation)
            if spoken not in self.languages:
                return Aside(
                    **place, field="messages", expected=f"one of {', '.join(self.languages)}", found=spoken, reason="language",
                    remedy="intake.languages=null keeps all",
                )  # fmt: skip
        return None

    def _judged(
        self, conversations: Iterable[Conversation], miner: Any, aside: Asides, counts: Counter[str]
    ) -> Iterator[Conversation]:
        """Those with a reply that pleased or displeased and can be learnt from."""
        remaining = iter(conversations)
        while together := list(islice(remaining, TOGETHER)):
            for conversation in judged(together, miner):
                verdicts = conversation.verdicts or {}
                counts["replies judged"] += len(verdicts)
                found = {at for at, verdict in verdicts.items() if verdict.label != "none"}
                if tools := len(found & set(conversation.from_tools)):
                    counts["replies that rest on a tool call, not used"] += tools
                counts["comments without a verdict"] += len(conversation.comments.keys() - found)
                if found - set(conversation.from_tools):
                    yield conversation
                elif found or conversation.comments:
                    aside.append(unused(conversation, tools > 0))
                else:
                    counts["conversations without a verdict"] += 1

    def _redacted(self, conversation: Conversation) -> Conversation:
        if not self.redact:
            return conversation
        from drift.intake.redact import redact

        def in_words(verdict: Verdict) -> Verdict:
            return verdict if verdict.evidence is None else replace(verdict, evidence=redact(verdict.evidence))

        return replace(
            conversation,
            messages=[message | {"content": redact(message["content"])} for message in conversation.messages],
            revised={i: redact(text) for i, text in conversation.revised.items()},
            comments={i: redact(text) for i, text in conversation.comments.items()},
            verdicts={i: in_words(verdict) for i, verdict in (conversation.verdicts or {}).items()},
        )


def contents(source: Any) -> list[Content]:
    return [content(file) for file in source.files()]


def watched(source: Any, log: Sequence[Content]) -> Iterator[Any]:
    """What the source yields, file by file, under a progress bar (its unit: bytes of the files)."""
    sizes = [file.size / 1e6 for file in log]
    with Progress("reading and judging", total=max(1, round(sum(sizes))), unit="MB") as bar:
        for i, file in enumerate(log):
            with up_to(file.file, file.size):
                for number, item in enumerate(source.conversations(file.file)):
                    yield item
                    if number % 256 == 0:
                        bar.reach(sum(sizes[:i]) + position(file.file) / 1e6)
            file.check()
        bar.reach(sum(sizes))


class Choice:
    """A seeded choice of at most `count` records out of a stream of any length: those with the lowest hashes, in the stream's
    order. Which records are chosen does not depend on it."""

    def __init__(self, count: int | None, seed: int) -> None:
        self.count, self.seed = count, seed
        self.kept: list[tuple[int, int, Record]] = []
        self.offered = 0

    def offer(self, record: Record) -> None:
        self.offered += 1
        item = (-int(digest([self.seed, record.key])[:16], 16), -self.offered, record)
        heapq.heappush(self.kept, item)
        if self.count is not None and len(self.kept) > self.count:
            heapq.heappop(self.kept)

    def records(self) -> list[Record]:
        return [record for _, _, record in sorted(self.kept, key=lambda item: -item[1])]
