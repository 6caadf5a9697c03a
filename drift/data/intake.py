"""From a log's conversations to records: checked, judged, chosen. The same for every source; every row is used or set aside.

A source is a dataclass with `path`, `name` and `version` (of its reading), `check()`, `files()` and `conversations(file)`, which
yields a `Conversation`, a finished `Record` or an `Aside` for every row. Memory does not grow with the file: only records are
kept, and `max_records` of them at most.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal

from drift.data.collected import Collected
from drift.data.conversations import Conversation, to_records
from drift.data.rows import Aside, position
from drift.errors import UserError, need_package
from drift.files import hash_file
from drift.records import Record, digest
from drift.report.console import Progress

VERSION = 1
TOGETHER = 512  # conversations that the miner gets at once


@dataclass(frozen=True, kw_only=True)
class Intake:
    """`records_per_conversation`: all, or one (chosen by the seed). `max_records`: a random choice of so many by `seed` (null:
    all). `languages`: codes to keep (null: all). `near_duplicates`: conversations whose words (in fives) overlap by this share with
    those of an earlier one are dropped (null: only equal ones). `drop_flagged`: what the source's own flags exclude. `redact`:
    e-mail addresses, phone numbers and keys are replaced by their kind. `leakage`: what is done with training records whose
    prompts the evaluation asks."""

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

    def key(self, source: Any, miner: Any) -> dict[str, Any]:
        return {
            "intake": VERSION,
            "source": source.name,
            "version": source.version,
            "files": [hash_file(file) for file in source.files()],
            "settings": {name: value for name, value in asdict(self).items() if name != "leakage"},
            "miner": miner.key(),
        }

    def collect(self, source: Any, miner: Any) -> Collected:
        aside: list[Aside] = []
        counts: Counter[str] = Counter()
        chosen = Choice(self.max_records, self.seed)
        miner.counts.clear()
        for conversation in self._distinct(self._judged(self._wanted(source, aside, counts, chosen), miner, counts), aside):
            records = list(to_records(conversation, source.name))
            if self.records_per_conversation == "one":
                records = sorted(records, key=lambda record: digest([self.seed, record.key]))[:1]
            for record in records:
                counts[f"{record.label.upper()} replies found"] += 1
                chosen.offer(record)
        return Collected(records=chosen.records(), set_aside=[asdict(row) for row in aside], facts=dict(counts + miner.counts))

    def _wanted(self, source: Any, aside: list[Aside], counts: Counter[str], chosen: "Choice") -> Iterator[Conversation]:
        """Well-formed conversations in a language and with flags that are wanted; finished records are chosen from at once."""
        for item in watched(source):
            counts["rows read" if isinstance(item, Record) else "conversations read"] += 1
            if isinstance(item, Record):
                chosen.offer(item)
            elif isinstance(item, Aside):
                aside.append(item)
            elif (reason := self._unwanted(item)) is not None:
                aside.append(reason)
            else:
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
            from drift.data.language import language

            spoken = language(conversation)
            if spoken not in self.languages:
                return Aside(
                    **place, field="messages", expected=f"one of {', '.join(self.languages)}", found=spoken, reason="language",
                    remedy="intake.languages=null keeps all",
                )  # fmt: skip
        return None

    def _judged(self, conversations: Iterable[Conversation], miner: Any, counts: Counter[str]) -> Iterator[Conversation]:
        """Those with a reply that pleased or displeased."""
        remaining = iter(conversations)
        while together := list(islice(remaining, TOGETHER)):
            unknown = [conversation for conversation in together if conversation.verdicts is None]
            verdicts = dict(zip(map(id, unknown), miner.judge([c.messages for c in unknown]), strict=True)) if unknown else {}
            for conversation in together:
                if conversation.verdicts is None:
                    conversation = replace(conversation, verdicts=verdicts[id(conversation)])
                assert conversation.verdicts is not None
                counts["replies judged"] += len(conversation.verdicts)
                if any(verdict.label != "none" for verdict in conversation.verdicts.values()):
                    yield conversation

    def _distinct(self, conversations: Iterable[Conversation], aside: list[Aside]) -> Iterator[Conversation]:
        from drift.data.duplicates import Seen

        seen = Seen(self.near_duplicates)
        for conversation in conversations:
            twin = seen.before(conversation.id, conversation.messages)
            if twin is None:
                yield self._redacted(conversation)
                continue
            aside.append(
                Aside(
                    file=conversation.file,
                    row=conversation.row,
                    field="messages",
                    expected="a conversation that is there once",
                    found=f"{twin.likeness} {twin.id}",
                    reason="duplicate",
                    remedy="intake.near_duplicates=null keeps near ones",
                )  # fmt: skip
            )

    def _redacted(self, conversation: Conversation) -> Conversation:
        if not self.redact:
            return conversation
        from drift.data.redact import redact

        messages = [message | {"content": redact(message["content"])} for message in conversation.messages]
        revised = {i: redact(text) for i, text in conversation.revised.items()}
        return replace(conversation, messages=messages, revised=revised)


def watched(source: Any) -> Iterator[Any]:
    """What the source yields, file by file, under a progress bar (its unit: bytes of the files)."""
    files = source.files()
    sizes = [file.stat().st_size / 1e6 for file in files]
    with Progress("reading and judging", total=max(1, round(sum(sizes))), unit="MB") as bar:
        for i, file in enumerate(files):
            for number, item in enumerate(source.conversations(file)):
                yield item
                if number % 256 == 0:
                    bar.reach(sum(sizes[:i]) + position(file) / 1e6)
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
