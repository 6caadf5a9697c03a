"""The questions of the LLM judge and its answers, as text: templates, the form of an answer, and how it is read.

A template is a text file with the fields in braces that `FIELDS` lists for its mode. A conversation and a reply stand in a question
between tags (<conversation>, <reply>, …), and what looks like such a tag inside them is escaped, so that no text can end where it
doesn't, or pass for another one. An answer counts only if it holds exactly one verdict in the form that was asked for."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from drift.engine.answer import without_thoughts
from drift.errors import UserError
from drift.records import Prompt

Mode = Literal["absolute", "pairwise"]
PROMPTS = Path(__file__).resolve().parent / "prompts"
FIELDS = {"absolute": ("conversation", "reply", "form"), "pairwise": ("conversation", "first", "second", "form")}
CHOICES = ("A", "B", "tie")
TAGS = re.compile(r"<(?=\s*/?\s*(?:conversation|system|user|assistant|reply(?:_[ab])?)\b)", re.IGNORECASE)
FIELD = re.compile(r"\{(conversation|reply|first|second|form|scale)\}")
FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.DOTALL)
DECORATION = r"[ \t*_`#>\"']*"  # of Markdown


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of an answer. `name`: of the verdict (score or verdict). `values`: the possible ones. `structured`: JSON."""

    name: str
    values: Sequence[int | str]
    structured: bool

    def words(self) -> str:
        """The form, at the end of the question."""
        values = f"a whole number from {self.values[0]} to {self.values[-1]}" if self.name == "score" else "A, B or tie"
        if self.structured:
            example = '"A"' if self.name == "verdict" else "…"
            return (
                f'Answer with a JSON object and nothing else: {{"reason": "…", "{self.name}": {example}}}. The reason is two '
                f"sentences at most, and the {self.name} is {values}."
            )
        return (
            f"Answer with your reason in two sentences at most. Then write a last line of the form\n{self.name.title()}: …\n"
            f"in which the {self.name} is {values}, and write nothing after it."
        )

    def schema(self) -> dict[str, Any]:
        """The `response_format` for a server that enforces it."""
        kind = "integer" if self.name == "score" else "string"
        properties = {"reason": {"type": "string"}, self.name: {"type": kind, "enum": list(self.values)}}
        schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
        return {"type": "json_schema", "json_schema": {"name": self.name, "strict": True, "schema": schema}}

    def read(self, answer: str) -> Any:
        """The verdict in an answer, one of `values`; None if there is not exactly one in the form that was asked for."""
        text = without_thoughts(answer).strip()
        found = self._read_json(text) if self.structured else self._read_lines(text)
        known = {str(value).lower(): value for value in self.values}
        return known.get(str(found[0]).lower()) if len(found) == 1 else None

    def _read_json(self, text: str) -> list[Any]:
        try:
            read = json.loads(fenced[1] if (fenced := FENCE.match(text)) else text, object_pairs_hook=tuple)
        except (ValueError, RecursionError):
            return []
        found = [value for name, value in read if name == self.name] if isinstance(read, tuple) else []
        return found if all(type(value) is type(self.values[0]) for value in found) else []

    def _read_lines(self, text: str) -> list[str]:
        value = rf"(\d+)(?:\s*/\s*{self.values[-1]})?" if self.name == "score" else "(A|B|tie)"
        line = rf"^{DECORATION}{self.name}{DECORATION}:{DECORATION}(?:{value}{DECORATION}\.?{DECORATION}$)?"
        return [hit[1] for hit in re.finditer(line, text, re.IGNORECASE | re.MULTILINE)]


def load(template: str | None, mode: Mode, setting: str) -> str:
    """The text of a template (None: ours). Raises UserError if it can't be read or lacks a field."""
    file = Path(template).expanduser() if template else PROMPTS / f"{mode}.txt"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{setting}.template={template}: expected a text file in UTF-8 ({error}).") from error
    found = Counter(FIELD.findall(text))
    wanted = {name: 1 for name in FIELDS[mode]}
    if {name: count for name, count in found.items() if name != "scale"} != wanted:
        names = ", ".join(f"{{{name}}}" for name in wanted)
        raise UserError(f"{setting}.template={template}: for mode={mode}, expected each of {names} exactly once.")
    return text


def fill(template: str, form: Form, prompt: Prompt, replies: Sequence[str], max_chars: int) -> str:
    """A question about one reply, or about two. Each text is cut to `max_chars`, in its middle."""
    turns = "\n".join(_tagged(turn["role"], _escape(turn["content"])) for turn in prompt)
    texts = {"conversation": _tagged("conversation", _cut(turns, max_chars)), "form": form.words(), "scale": str(form.values[-1])}
    shown = [_cut(_escape(reply), max_chars) for reply in replies]
    if len(shown) == 1:
        texts["reply"] = _tagged("reply", shown[0])
    else:
        texts["first"], texts["second"] = (_tagged(f"reply_{name}", text) for name, text in zip("AB", shown, strict=True))
    return FIELD.sub(lambda field: texts[field[1]], template)


def _tagged(name: str, text: str) -> str:
    return f"<{name}>\n{text}\n</{name}>"


def _escape(text: str) -> str:
    return TAGS.sub("&lt;", text)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n[… {len(text) - 2 * (most // 2)} characters left out …]\n{text[len(text) - most // 2 :]}"


def majority(votes: Sequence[Any]) -> Any:
    """The verdict of several answers (None: unreadable): the one with the most votes, or a tie; None if no more than half could be
    read."""
    readable = [vote for vote in votes if vote is not None]
    if 2 * len(readable) <= len(votes):
        return None
    (best, count), *others = [*Counter(readable).most_common(2), ("tie", 0)]
    return "tie" if others[0][1] == count else best


def mean(votes: Sequence[Any]) -> float | None:
    """The mean grade of several answers, on the same terms."""
    readable = [vote for vote in votes if vote is not None]
    return fmean(readable) if 2 * len(readable) > len(votes) else None
