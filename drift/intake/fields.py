"""Fields of a row that its reader does not know.

Most are harmless (a time stamp, a model's name) and are ignored. A field whose name looks like a user's opinion or comment, a
reply or a system prompt stops the program with a question, because ignoring it could lose feedback. The same names are searched
for inside unknown objects ("metadata": {"rating": -1}). Only English names are recognised."""

import ast
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

from drift.errors import UserError

Fields = Mapping[str, frozenset[str]]  # "": the names that a row may have; "messages": those of the objects in its list `messages`
LOOKS = {
    "a user's opinion": """
        feedback thumb thumbs thumbsup thumbsdown thumbup thumbdown rating ratings rated label labels score scores vote votes
        voted upvote upvotes upvoted downvote downvotes downvoted like likes liked dislike dislikes disliked star stars annotation
        annotations reaction reactions satisfied satisfaction unsatisfied dissatisfied dissatisfaction disatisfaction verdict
        verdicts judgement judgment preference preferences preferred helpful unhelpful helpfulness review reviews reviewed grade
        sentiment opinion reward emoji emojis csat nps approved approval accepted good bad correct incorrect quality winner loser
        rank ranking evaluation evaluations survey surveys useful useless usefulness resolved unresolved solved unsolved happy
        unhappy reported""",
    "a user's comment": "comment comments complaint complaints critique critiques remark remarks",
    "a reply": """
        chosen rejected response responses reply replies answer answers completion completions output outputs revised revision
        revisions edited correction corrections candidate candidates alternative alternatives regenerated variant variants""",
    "a system prompt": "system instruction instructions preprompt persona preamble developer",
}
OF_USERS = ("a user's opinion", "a user's comment")
WORDS = {word: look for look, words in LOOKS.items() for word in words.split()}
HARMLESS_ENDS = frozenset(
    "id ids token tokens time ms seconds at date timestamp latency format fingerprint cost length model url language lang".split()
)  # "completion_tokens" is not a reply
HARMLESS = frozenset({"operating_system", "file_system"})
MAX_LITERAL = 1_000_000  # characters; parsing a longer Python literal would take a hundred times its memory
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
SIGNATURES = {  # by option of the config group data: the fields that its rows are recognised by, the most telling first
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


TURNS = ("messages", "conversations", "conversation")  # fields that are lists of messages


@cache
def looks_like(name: str) -> str | None:
    """What a field with this name looks like, one of LOOKS, or None for a harmless one."""
    return None if is_harmless(name) else next((WORDS[part] for part in split_name(name) if part in WORDS), None)


def is_harmless(name: str) -> bool:
    """Whether a field with this name can't hold feedback ("rated_at")."""
    return name.lower() in HARMLESS or (split_name(name) or [""])[-1] in HARMLESS_ENDS


def split_name(name: str) -> list[str]:
    """The words in a name: "thumbsUp" and "thumbs_up" give "thumbs" and "up"."""
    return [part.lower() for part in PART.findall(name)]


def is_empty(value: Any) -> bool:
    """Whether a value is empty (null, NaN as data frames write it, "", [], {})."""
    return value is None or value != value or value in ("", [], {}) or (isinstance(value, str) and not value.strip())


def unread_fields(given: Mapping[str, Any], known: Collection[str], path: str = "") -> Iterator[tuple[str, str, str]]:
    """(field of `given`, its path, what it looks like) for every unknown field of an object that looks like feedback."""
    for name, value in given.items():
        if name in known or is_empty(value):
            continue
        where = f"{path}.{name}".removeprefix(".")
        if (seems := looks_like(str(name))) is not None:
            yield name, where, seems
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from ((name, place, seems) for _, place, seems in unread_fields(part, (), where))


def check_fields(row: Mapping[str, Any], fields: Fields, place: str, option: str) -> None:
    """Refuses a row with an unknown field that looks like feedback. `place`: file and row, for the message; `option`: of the config
    group data."""
    for key, known in fields.items():
        parts = row.get(key) if key else [row]
        for i, part in enumerate(parts if isinstance(parts, list) else [parts]):
            if not isinstance(part, dict) or part.keys() <= known:
                continue
            all_known = known | fields.keys() if not key else known
            for name, where, seems in unread_fields(part, all_known, f"{key}[{i}]" if key and isinstance(parts, list) else key):
                needed = SIGNATURES.get(option, ())[:2]
                if needed and not any(field in row for field in needed):
                    raise UserError(
                        f"{place}: {where} looks like {seems}, but this is no row of data={option}: it has no field {needed[0]}. "
                        f"It has {', '.join(map(str, row))}. docs/log-format.md lists the forms that are read, and shows how to "
                        "convert another one."
                    )
                how = "docs/log-format.md lists the fields that are: rename it"
                if option in ("sharegpt", "wildchat") and seems in OF_USERS:
                    how = (
                        "data=messages reads what users clicked or wrote beside a reply: put the turns under `messages`, each with "
                        "role and content (docs/log-format.md), and keep this field"
                    )
                raise UserError(
                    f"{place}: the field {where} looks like {seems} but is not read. {how}, or ignore it with {ignoring(name)}."
                )


def ignoring(name: str) -> str:
    """The setting that ignores a field, as it is typed into a shell."""
    if re.fullmatch(r"[\w-]*[a-z][\w-]*", name, re.ASCII | re.IGNORECASE):
        return f"data.ignore_fields=[{name}]"
    from hydra.core.override_parser.types import Quote, QuotedString

    return shlex.quote(f"data.ignore_fields=[{QuotedString(text=name, quote=Quote.double).with_quotes()}]")


def drop_fields(value: Any, names: Collection[str]) -> Any:
    """A row without the fields of these names, at the top and in all its objects."""
    if isinstance(value, list):
        return [drop_fields(item, names) for item in value]
    if isinstance(value, dict):
        return {name: drop_fields(item, names) for name, item in value.items() if name not in names}
    return value


def other_source(row: Mapping[str, Any], option: str) -> str | None:
    """The source that a row seems to come from, if it lacks the fields that rows of data=`option` are recognised by."""

    def has(source: str) -> bool:
        return all(name in row and (name not in TURNS or isinstance(row[name], list)) for name in SIGNATURES[source])

    if option not in SIGNATURES or any(name in row for name in SIGNATURES[option][:2]):
        return None
    return next((source for source in SIGNATURES if has(source)), None)


def decode_list(value: Any, *needed: str) -> Any:
    """A list of objects that was stored as text (JSON, or a Python literal, as data frames and tables write it), if each object has
    one of the fields `needed`; any other value unchanged."""
    if not isinstance(value, str) or not value[:8].lstrip().startswith("[{"):
        return value
    for read in (json.loads, ast.literal_eval) if len(value) < MAX_LITERAL else (json.loads,):
        try:
            items = read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(items, list) and all(isinstance(item, dict) and any(name in item for name in needed) for item in items):
            return items
    return value
