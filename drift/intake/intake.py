"""From a log's conversations to records: checked, classified, selected. The same for every source; every row is used or set aside.

A source is a dataclass with `path`, `name` and `version` (of its parser), `check()`, `files()` and `conversations(file)`, which
yields a `Conversation`, a finished `Record` or an `Aside` for every row. Memory does not grow with the file: only records are
kept, at most `max_records` of them.
"""

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal

from drift.console import Progress
from drift.errors import UserError, nearest, need_package
from drift.intake.aside import Aside, Asides
from drift.intake.collected import Collected
from drift.intake.conversations import Conversation, Opinion, to_records, with_unique_ids
from drift.intake.duplicates import Copies, SeenRecords, set_aside_duplicate
from drift.intake.files import Snapshot, snapshot, unread_files
from drift.intake.opinions import Votes, keep_majority, why_unused, with_opinions
from drift.intake.rows import bytes_read, read_at_most
from drift.records import Record, digest

VERSION = 6
BATCH_SIZE = 512  # conversations that the miner gets at a time
FLAGS = ("toxic", "redacted", "whole_conversation")  # of the sources in data/; one of yours may have others
LANGUAGE = re.compile("[a-z]{2,3}")  # a code, as py3langid gives it


@dataclass(frozen=True, kw_only=True)
class Intake:
    """`records_per_conversation`: all, or one (chosen by the seed). `max_records`: how many to select at random, by `seed` (null:
    all). `languages`: codes to keep (null: all). `near_duplicates`: a record is dropped if it shares this share of five-word
    sequences with an earlier one (null: only equal records are dropped); see duplicates.py. `drop_flagged`: flags of the source
    that exclude a conversation. `redact`: replace e-mail addresses, phone numbers and keys by placeholders. `leakage`: what
    happens to training records whose prompts the evaluation uses."""

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

        for flag in self.drop_flagged:
            if flag not in FLAGS and (hint := nearest(flag, FLAGS)):
                raise UserError(f"intake.drop_flagged: {flag} is no flag of a source.{hint}")
        if self.languages is not None and (not self.languages or not all(LANGUAGE.fullmatch(code) for code in self.languages)):
            raise UserError(f"intake.languages={self.languages}: expected codes of two letters, [en, de], or null for all.")

    def check_packages(self) -> None:
        """Refuses settings that need packages beyond the plain installation, if these are missing."""
        if self.languages is not None:
            need_package("py3langid", "intake.languages", extra="logs")
        if self.redact:
            need_package("phonenumbers", "intake.redact", extra="logs")
            need_package("detect_secrets", "intake.redact", extra="logs")

    def key(self, source: Any, miner: Any, log: Sequence[Snapshot] | None = None) -> dict[str, Any]:
        """`log`: snapshots of the source's files (None: taken now)."""
        return {
            "intake": VERSION,
            "source": source.name,
            "version": source.version,
            "reading": {name: value for name, value in asdict(source).items() if name != "path"},
            "files": [file.sha256 for file in log or snapshots(source)],
            "settings": {name: value for name, value in asdict(self).items() if name != "leakage"},
            "miner": miner.key(),
        }

    def collect(self, source: Any, miner: Any, log: Sequence[Snapshot] | None = None) -> Collected:
        """The records of a log and the rows set aside. `log`: snapshots of the source's files, which are what is read (None: taken
        now)."""
        log = log or snapshots(source)
        counts: Counter[str] = Counter()
        aside = Asides(counts, self.redact)
        selected, votes, seen = Selection(self.max_records, self.seed), Votes(), SeenRecords(self.near_duplicates)
        copies = Copies()
        miner.counts.clear()
        wanted = self._wanted(source, log, aside, counts, selected)
        for conversation in with_unique_ids(self._classified(wanted, miner, aside, counts), counts):
            records = []
            for record in to_records(self._redacted(conversation), source.name):
                if not conversation.revised:  # in a pair, a reply is only better or worse than the other one
                    if (poorer := copies.poorer(record, conversation.file, conversation.row)) is not None:
                        aside.append(poorer)
                        continue
                    votes.count(record)
                if (twin := seen.find_twin(record)) is None:
                    records.append(record)
                else:
                    aside.append(set_aside_duplicate(conversation.file, conversation.row, twin))
            for record in self._as_many_as_wanted(records):
                counts[f"{record.label.upper()} replies found"] += 1
                selected.offer(record)
        aside.extend(unread_files(source.path, {file.file for file in log}))
        if contradictory := votes.contradictory():
            counts["replies with contradictory votes"] = contradictory
        kept = keep_majority(list(map(copies.fullest, self._as_many_as_wanted(selected.records()))), votes, aside)
        return Collected(records=kept, set_aside=list(aside.as_rows()), facts=dict(counts + miner.counts))

    def _as_many_as_wanted(self, records: Sequence[Record]) -> list[Record]:
        """All records, or one of each conversation: the one with the lowest hash."""
        if self.records_per_conversation == "all":
            return list(records)
        chosen: dict[str, Record] = {}
        for record in sorted(records, key=lambda record: digest([self.seed, record.key])):
            chosen.setdefault(record.conversation, record)
        return [record for record in records if chosen[record.conversation] is record]

    def _wanted(
        self, source: Any, log: Sequence[Snapshot], aside: Asides, counts: Counter[str], selected: "Selection"
    ) -> Iterator[Conversation]:
        """Well-formed conversations whose language and flags are wanted; finished records go straight to the selection."""
        finished = Finished()
        for item in read_with_progress(source, log):
            counts["rows read" if isinstance(item, Record) else "conversations read"] += 1
            if isinstance(item, Record):
                item = finished.unique(item, counts)
                selected.offer(item) if isinstance(item, Record) else aside.append(item)
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
                remedy=f"take {flagged[0]} out of intake.drop_flagged to keep it",
            )  # fmt: skip
        if self.languages is not None:
            from drift.intake.language import user_language

            code = user_language(conversation)
            if code not in self.languages:
                return Aside(
                    **place, field="messages", expected=f"one of {', '.join(self.languages)}", found=code, reason="language",
                    remedy="intake.languages=null keeps all languages",
                )  # fmt: skip
        return None

    def _classified(
        self, conversations: Iterable[Conversation], miner: Any, aside: Asides, counts: Counter[str]
    ) -> Iterator[Conversation]:
        """The conversations that have a liked or disliked reply to train on."""
        remaining = iter(conversations)
        while batch := list(islice(remaining, BATCH_SIZE)):
            for conversation in with_opinions(batch, miner):
                opinions = conversation.opinions or {}
                counts["replies classified"] += len(opinions)
                labelled = {at for at, opinion in opinions.items() if opinion.label != "none"}
                if tools := len(labelled & set(conversation.from_tools)):
                    counts["replies that rest on a tool call, not used"] += tools
                counts["unclear comments"] += len(conversation.comments.keys() - labelled)
                if labelled - set(conversation.from_tools):
                    yield conversation
                elif labelled or conversation.comments:
                    aside.append(why_unused(conversation, tools > 0))
                else:
                    counts["conversations without feedback"] += 1

    def _redacted(self, conversation: Conversation) -> Conversation:
        if not self.redact:
            return conversation
        from drift.intake.redact import redact

        def redact_evidence(opinion: Opinion) -> Opinion:
            return opinion if opinion.evidence is None else replace(opinion, evidence=redact(opinion.evidence))

        return replace(
            conversation,
            messages=[message | {"content": redact(message["content"])} for message in conversation.messages],
            revised={i: redact(text) for i, text in conversation.revised.items()},
            comments={i: redact(text) for i, text in conversation.comments.items()},
            opinions={i: redact_evidence(opinion) for i, opinion in (conversation.opinions or {}).items()},
        )


def snapshots(source: Any) -> list[Snapshot]:
    return [snapshot(file) for file in source.files()]


def read_with_progress(source: Any, log: Sequence[Snapshot]) -> Iterator[Any]:
    """What the source yields, file by file, with a progress bar in MB."""
    sizes = [file.size / 1e6 for file in log]
    with Progress("reading the log", total=max(1, round(sum(sizes))), unit="MB") as bar:
        for i, file in enumerate(log):
            with read_at_most(file.file, file.size):
                for number, item in enumerate(source.conversations(file.file)):
                    yield item
                    if number % 256 == 0:
                        bar.reach(sum(sizes[:i]) + bytes_read(file.file) / 1e6)
            file.check()
        bar.reach(sum(sizes))


class Finished:
    """The records of a source that gives finished ones. Several files of them may hold the same record, or other ones by its id."""

    def __init__(self) -> None:
        self.seen, self.ids = SeenRecords(None), Counter[str]()

    def unique(self, record: Record, counts: Counter[str]) -> Record | Aside:
        """The record with an id of its own, or, if an earlier one is equal, that it is set aside."""
        if (twin := self.seen.find_twin(record)) is not None:
            place = record.provenance or {}
            return set_aside_duplicate(str(place.get("file", record.id)), int(place.get("row", 0)), twin)
        self.ids[record.id] += 1
        if (number := self.ids[record.id]) == 1:
            return record
        counts["records with the id of an earlier one"] += 1
        return replace(record, id=f"{record.id} ({number})")


class Selection:
    """A seeded selection of at most `count` records from a stream of any length: those with the lowest hashes, in the stream's
    order. Which records are selected does not depend on that order."""

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
