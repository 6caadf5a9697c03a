"""Fields of a row that its reader does not know.

Most are harmless (a time stamp, a model's name) and are passed over. One whose name looks like a user's verdict or words, a reply
or a system prompt is asked about: to pass over it would leave something unread that a user said. The same names are looked for
inside objects that a reader does not know ("metadata": {"rating": -1}). Only English names are recognised.
"""

import ast
import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

from drift.errors import UserError

Fields = Mapping[str, frozenset[str]]  # "": the names that a row may have; "messages": those of the objects in its list `messages`
LOOKS = {
    "a user's verdict": """
        feedback thumb thumbs thumbsup thumbsdown thumbup thumbdown rating ratings rated label labels score scores vote votes
        voted upvote upvotes upvoted downvote downvotes downvoted like likes liked dislike dislikes disliked star stars annotation
        annotations reaction reactions satisfied satisfaction unsatisfied dissatisfied dissatisfaction disatisfaction verdict
        verdicts judgement judgment preference preferences preferred helpful unhelpful helpfulness review reviews reviewed grade
        sentiment opinion reward emoji emojis csat nps approved approval accepted good bad correct incorrect quality winner loser
        rank ranking""",
    "a user's words": "comment comments complaint complaints critique critiques remark remarks",
    "a reply": """
        chosen rejected response responses reply replies answer answers completion completions output outputs revised revision
        revisions edited correction corrections candidate candidates alternative alternatives regenerated variant variants""",
    "a system prompt": "system instruction instructions preprompt persona preamble developer",
}
WORDS = {word: look for look, words in LOOKS.items() for word in words.split()}
HARMLESS_ENDS = frozenset(
    "id ids token tokens time ms seconds at date timestamp latency format fingerprint cost length model url language lang".split()
)  # "completion_tokens" is no reply
HARMLESS = frozenset({"operating_system", "file_system"})
LITERAL = 1_000_000  # characters; Python's form of longer texts is not read, which would take a hundred times their memory
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
MAIN = {  # fields of the rows of a source (an option of the config group data), the most telling first
    "wildfeedback_pairs": ("conversations", "chosen", "rejected"),
    "wildfeedback": ("UtteranceId",),
    "ultrafeedback": ("instruction", "completions"),
    "records": ("provenance", "reply", "prompt", "label"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "wildchat": ("conversation",),
    "preference": ("chosen", "rejected"),
    "jsonl": ("prompt", "rejected"),
}


TURNS = ("messages", "conversations", "conversation")  # lists of what was said


@cache
def look(name: str) -> str | None:
    """What a field of this name looks like, one of LOOKS, or None for a harmless one."""
    return None if harmless(name) else next((WORDS[part] for part in parts_of(name) if part in WORDS), None)


def harmless(name: str) -> bool:
    """Whether a name says that its field holds no opinion ("rated_at")."""
    return name.lower() in HARMLESS or (parts_of(name) or [""])[-1] in HARMLESS_ENDS


def parts_of(name: str) -> list[str]:
    """The words of a name: "thumbsUp" and "thumbs_up" are "thumbs" and "up"."""
    return [part.lower() for part in PART.findall(name)]


def empty(value: Any) -> bool:
    """Whether a value says nothing (null, NaN as data frames write it, "", [], {})."""
    return value is None or value != value or value in ("", [], {}) or (isinstance(value, str) and not value.strip())


def unread(given: Mapping[str, Any], known: Collection[str], path: str = "") -> Iterator[tuple[str, str, str]]:
    """(field of `given`, where it is, what it looks like) of everything in an object that is not known and should be read."""
    for name, value in given.items():
        if name in known or empty(value):
            continue
        where = f"{path}.{name}".removeprefix(".")
        if (seems := look(str(name))) is not None:
            yield name, where, seems
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from ((name, place, seems) for _, place, seems in unread(part, (), where))


def check_fields(row: Mapping[str, Any], fields: Fields, place: str) -> None:
    """Refuses a row with a field that should be read and is not; `place` says where the row is."""
    for key, known in fields.items():
        parts = row.get(key) if key else [row]
        for i, part in enumerate(parts if isinstance(parts, list) else [parts]):
            if not isinstance(part, dict) or part.keys() <= known:
                continue
            beside = known | fields.keys() if not key else known
            for name, where, seems in unread(part, beside, f"{key}[{i}]" if key else ""):
                raise UserError(
                    f"{place}: the field {where} looks like {seems}, and is not read. docs/log-format.md says which fields are: "
                    f"rename it, or leave it unread with data.ignore_fields=[{name}]."
                )


def without(value: Any, names: Collection[str]) -> Any:
    """A row without the fields of these names, its own and those of the objects in its lists."""
    if isinstance(value, list):
        return [without(item, names) for item in value]
    if isinstance(value, dict):
        return {name: without(item, names) if isinstance(item, list) else item for name, item in value.items() if name not in names}
    return value


def other_source(row: Mapping[str, Any], option: str) -> str | None:
    """The source that a row looks like, if it lacks the fields that those of data=`option` are told by."""

    def has(source: str) -> bool:
        return all(name in row and (name not in TURNS or isinstance(row[name], list)) for name in MAIN[source])

    if option not in MAIN or any(name in row for name in MAIN[option][:2]):
        return None
    return next((source for source in MAIN if has(source)), None)


def decoded(value: Any, *needed: str) -> Any:
    """A list of objects that came as text (as data frames and tables write it: JSON, or Python's form of it), if each has one of
    the fields `needed`; any other value as it is."""
    if not isinstance(value, str) or not value[:8].lstrip().startswith("[{"):
        return value
    for read in (json.loads, ast.literal_eval) if len(value) < LITERAL else (json.loads,):
        try:
            items = read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(items, list) and all(isinstance(item, dict) and any(name in item for name in needed) for item in items):
            return items
    return value
