"""Marks: what a user clicked, rated or commented on a reply.

    {"role": "assistant", "content": "...", "feedback": "down", "comment": "Too long."}
    {"role": "assistant", "content": "...", "annotation": {"rating": -1, "reason": "wrong", "comment": ""}}

docs/log-format.md lists all forms, and what each one becomes.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from drift.errors import UserError
from drift.intake.conversations import Label
from drift.intake.fields import ignoring, is_empty, is_harmless, unread_fields
from drift.intake.rows import BadRow
from drift.intake.turns import quote, to_text

CLICKS = frozenset({"feedback", "thumbs", "rating", "label", "annotation"})
INSIDE = ("rating", "thumbs", "label", "score", "value")  # fields of a mark that is an object: "annotation": {"rating": -1}
REASONS = ("reason", "tag")  # selected from a list that the product offers
TOPICS = "tags"  # which Open WebUI's own model gives a conversation: no opinion
WORDS = ("comment", "text", "details")  # written by the user
FINER = {"rating"}  # in an object `details`: Open WebUI's ten steps, which its thumb constrains
UP = frozenset("up thumbsup thumbup upvote upvoted positive good like liked helpful satisfied true 👍".split())
DOWN = frozenset(
    "down thumbsdown thumbdown downvote downvoted negative bad dislike disliked unhelpful nothelpful unsatisfied dissatisfied "
    "false 👎".split()
)
NOTHING, NEITHER = frozenset({"", "none", "null", "nan", "unrated"}), frozenset({"neutral"})
EXPECTED = "up or down, positive or negative, true or false, 1 or -1"
NUMBER, LARGEST = re.compile(r"[+-]?\d+(\.\d+)?"), 1e9  # a rating; a larger number is something else


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What numbers mean: up to `displeased_up_to` is DSAT, from `pleased_from` on is SAT, in between is neither. Null: only 1 and
    -1 are understood. `seen`: where the first mark that is 1 stands in a file, and the first of any other kind."""

    displeased_up_to: float | None
    pleased_from: float | None
    seen: dict[Literal["1", "other"], str] = field(default_factory=dict, init=False, compare=False)

    def check(self) -> None:
        low, high = self.displeased_up_to, self.pleased_from
        if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
            raise UserError(
                f"data.displeased_up_to={low}, data.pleased_from={high}: expected both, the first one lower, or null for both."
            )

    def label(self, number: float, place: str) -> Label:
        """The label of a number; refuses the log if no setting says what such numbers mean."""
        if self.displeased_up_to is not None and self.pleased_from is not None:
            return "dsat" if number <= self.displeased_up_to else "sat" if number >= self.pleased_from else "none"
        if number in (-1, 1):
            self.seen.setdefault("1" if number == 1 and not place.endswith("thumbs") else "other", place)
            return "sat" if number == 1 else "dsat"
        raise UserError(
            f"{place} is {number:g}. Without settings, only 1 (pleased) and -1 (displeased) are understood. Say what the numbers "
            "in this log mean: data.displeased_up_to=2 data.pleased_from=4 for one to five stars, 0 and 1 if 0 means displeased, "
            "-1 and 1 if 0 means no opinion."
        )

    def check_ones(self) -> None:
        """Refuses a file whose marks are all 1, unless the settings say what that means: it may hold nothing but thumbs up, or
        nothing but the worst of five stars."""
        if self.displeased_up_to is None and "1" in self.seen and "other" not in self.seen:
            raise UserError(
                f"{self.seen['1']} is 1, and so is every mark in this file: thumbs up, or the worst of five stars? Say which: "
                "data.displeased_up_to=-1 data.pleased_from=1 if 1 means pleased, data.displeased_up_to=2 data.pleased_from=4 for "
                "one to five stars."
            )


@dataclass(frozen=True, kw_only=True)
class Mark:
    """`label`: None if nothing was clicked. `words`: the user's comment. `reason`: one selected from a list that the product
    offers."""

    label: Label | None
    words: str | None
    reason: str | None


def read_mark(given: Mapping[str, Any], names: Collection[str], field: str, scale: Scale, place: str) -> Mark:
    """The mark in the fields `names` and `comment` of an object; raises BadRow. `field`: the object's path in the row; `place`:
    file and row."""
    labels: dict[str, Label] = {}
    words, reasons = [], []
    for name in sorted(names):
        value, where = _object(given.get(name)), f"{field}.{name}".removeprefix(".")
        if is_empty(value):
            continue
        if isinstance(value, dict):
            mark = _read_object(value, where, scale, place)
            words.append(mark.words)
            reasons.append(mark.reason)
            label = mark.label
        elif isinstance(value, str) and name == "feedback" and len(value.split()) > 1 and _label_of_word(value) is None:
            label = None
            words.append(to_text(value, where))
        else:
            label = _label(value, where, scale, place)
        if label is not None:
            labels[name] = label
    if len(set(labels.values())) > 1:
        found = ", ".join(f"{name}: {label}" for name, label in labels.items())
        raise BadRow(f"{field}.{next(iter(labels))}".removeprefix("."), "one opinion of a reply", found)
    if not is_empty(given.get("comment")):
        words.append(to_text(given["comment"], f"{field}.comment".removeprefix(".")))
    return Mark(
        label=next(iter(labels.values()), None),
        words="\n".join(dict.fromkeys(text for text in words if text)) or None,
        reason=next((reason for reason in reasons if reason), None),
    )


def _read_object(value: dict[str, Any], where: str, scale: Scale, place: str) -> Mark:
    """The mark in an object: {"rating": "thumbsDown", "tag": "wrong", "text": "..."}."""
    known = {*INSIDE, *REASONS, *WORDS, TOPICS}
    for _, unknown, seems in unread_fields(value, known, where):
        raise BadRow(unknown, f"one of {', '.join(sorted(known))}", f"a field that looks like {seems}")
    mark = read_mark({name: part for name, part in value.items() if not isinstance(part, dict)}, INSIDE, where, scale, place)
    for name in (*INSIDE, *WORDS):
        inner = value.get(name)
        repeats = name == "details" and isinstance(inner, dict) and inner.keys() <= FINER and mark.label is not None
        if isinstance(inner, dict) and inner and not repeats:
            raise BadRow(f"{where}.{name}", "text, a number, true or false", f"an object: {quote(inner)}")
    texts = {name: value[name] for name in WORDS if not is_empty(value.get(name)) and not isinstance(value[name], dict)}
    told = [mark.words, *(to_text(text, f"{where}.{name}") for name, text in texts.items())]
    reason = next((text for name in REASONS if (text := _reason(value.get(name), f"{where}.{name}"))), None)
    words = "\n".join(dict.fromkeys(text for text in told if text)) or (reason if mark.label is None else None)
    read = known - {TOPICS}
    other = sorted(name for name, part in value.items() if name not in read and not is_empty(part) and not is_harmless(name))
    if mark.label is None and words is None and other:
        raise BadRow(where, f"an opinion in one of the fields {', '.join(INSIDE)}", f"an object with {', '.join(other)}")
    return Mark(label=mark.label, words=words, reason=reason)


def _reason(value: Any, where: str) -> str | None:
    """What was selected: a text, a list of texts, or an object with a `key` (LibreChat's, formerly)."""
    value = value.get("key", value) if isinstance(value, dict) else value
    chosen = [value] if isinstance(value, str) else [] if is_empty(value) else value
    if not isinstance(chosen, list) or not all(isinstance(one, str) for one in chosen):
        raise BadRow(where, "text, a list of texts or an object with a key", quote(value))
    return ", ".join(one.strip() for one in chosen if one.strip()) or None


def _object(value: Any) -> Any:
    """An object that was stored as JSON text; any other value unchanged."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return value


def _label(value: Any, where: str, scale: Scale, place: str) -> Label | None:
    if isinstance(value, bool):
        scale.seen.setdefault("other", where)
        return "sat" if value else "dsat"
    number = float(value) if isinstance(value, str) and NUMBER.fullmatch(value.strip()) else value
    if isinstance(number, int | float | Decimal) and abs(number) < LARGEST:
        return scale.label(float(number), f"{place}: {where}")
    if isinstance(value, str):
        if (clicked := _label_of_word(value)) == "nothing":
            return None
        if clicked is not None:
            scale.seen.setdefault("other", where)
            return clicked
    raise BadRow(where, EXPECTED, quote(value), remedy=f"correct it, or ignore the field: {ignoring(where.rpartition('.')[2])}")


def _label_of_word(text: str) -> Any:
    """The label that a word stands for ("nothing" for a word that means no click), or None for any other word."""
    word = re.sub(r"[\s_\-\ufe0f\U0001f3fb-\U0001f3ff]", "", text).lower()
    return (
        "sat" if word in UP else "dsat" if word in DOWN else "none" if word in NEITHER else "nothing" if word in NOTHING else None
    )
