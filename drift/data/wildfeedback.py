"""WildFeedback's annotations (microsoft/WildFeedback, `sat_dsat_annotation.json`, ODC-BY): users' satisfaction, labelled by GPT-4.

One JSON array, one row per utterance, without conversation ids; `UtteranceId` 0 begins a conversation:
    {"UtteranceId": 2, "TurnId": 2, "Role": "User", "Content": "...", "Preceeding": "YES", "State": "FEEDBACK",
     "Satisfaction": false, "Disatisfaction": true, "Dissatisfaction-Justificiation": "..."}
The flags of a User row are about the reply before it. An Agent row only repeats the flags of the user row before it; those are not
read. Both flags may be true, and either may be missing. The keys are misspelt in the file itself. The card gives no schema: this is
what two public loaders read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.intake.conversations import Conversation, Label, Opinion
from drift.intake.files import display_name, find_files
from drift.intake.rows import BadRow, malformed, read_rows
from drift.intake.turns import quote, to_messages

SAT, DSAT = "Satisfaction", "Disatisfaction"
WHY = {"dsat": "Dissatisfaction-Justificiation", "both": "Dissatisfaction-Justificiation", "sat": "Satisfaction-Justificiation"}


@dataclass(frozen=True, kw_only=True)
class WildFeedback:
    """`path`: the hub data set, a directory, or the annotation file itself."""

    path: str

    name = "wildfeedback"
    version = 2
    knows_truth = False
    uses_policy = False
    gives_records = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return find_files(self.path, "sat_dsat_annotation*")

    def conversations(self, file: Path) -> Iterator[Any]:
        """A wrong row sets its whole conversation aside; an unreadable row ends the conversation."""
        part: list[tuple[int, Any]] = []
        name = display_name(file, self.path)
        for number, row in read_rows(file):
            unreadable = isinstance(row, BadRow)
            if part and (unreadable or (isinstance(row, dict) and row.get("UtteranceId") == 0)):
                yield _conversation(part, file, name)
                part = []
            if unreadable:
                yield malformed(str(file), number, row)
            else:
                part.append((number, row))
        if part:
            yield _conversation(part, file, name)


def _conversation(part: list[tuple[int, Any]], file: Path, name: str) -> Any:
    """The conversation of these (number, row), or an Aside. `name`: the file's name in records."""
    at = part[0][0]
    try:
        for at, row in part:  # noqa: B007
            if not isinstance(row, dict):
                raise BadRow("(row)", "a JSON object", type(row).__name__)
            if row.get("UtteranceId") != at - part[0][0]:
                raise BadRow("UtteranceId", f"{at - part[0][0]}, the next of its conversation", quote(row.get("UtteranceId")))
        at = part[0][0]
        return parse([row for _, row in part], name, at)
    except BadRow as error:
        if error.field.startswith("rows["):
            at = part[0][0] + int(error.field.removeprefix("rows[").partition("]")[0])
            error = BadRow(error.field.partition("].")[2], error.expected, error.found)
        return malformed(str(file), at, error)
    except RecursionError:
        return malformed(str(file), at, BadRow("(row)", "a JSON object", "a row nested too deeply"))


def parse(rows: list[dict[str, Any]], file: str, number: int) -> Conversation:
    """The rows of one conversation; raises BadRow."""
    roles = {"User": "user", "Agent": "assistant"}
    turns = [row | {"Role": roles.get(str(row.get("Role")), row.get("Role"))} for row in rows]
    messages = to_messages(turns, role="Role", content="Content", field="rows")
    after = [i for i in range(1, len(rows)) if (turns[i - 1]["Role"], turns[i]["Role"]) == ("assistant", "user")]
    opinions = {i - 1: opinion for i in after if (opinion := _opinion(rows[i], i)) is not None}
    name = f"{file}:{number}"
    return Conversation(
        id=name, thread=name, messages=messages, opinions=opinions, revised={}, flags=(), file=file, row=number,
        spoken_of=opinions.keys(),
    )  # fmt: skip


def _opinion(row: dict[str, Any], i: int) -> Opinion | None:
    for key in (SAT, DSAT):
        if not isinstance(row.get(key), bool | None):
            raise BadRow(f"rows[{i}].{key}", "true or false", quote(row[key]))
    labels: dict[tuple[bool, bool], Label] = {(True, False): "sat", (False, True): "dsat", (True, True): "both"}
    label = labels.get((bool(row.get(SAT)), bool(row.get(DSAT))))
    if label is None:
        return None
    why = row.get(WHY[label])
    return Opinion(label=label, category=None, confidence=1.0, detector="GPT-4", evidence=str(why) if why else None)
