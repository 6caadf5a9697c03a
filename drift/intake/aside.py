"""Rows that are set aside because they can't be used, and files that can't be read to the end: what is recorded about them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

MALFORMED, CORRECT = "malformed row", "correct the row, or leave it out"
DAMAGED, FETCH = "damaged file", "repair the file, or fetch it again; the rows before the damage are used"
SHOWN = 60  # characters of a value in a message
MAX_LISTED = 100_000  # rows of a log, so that memory stays bounded; further ones are only counted


class BadRow(ValueError):
    """A row that can't be used: the field, what was expected, what was found, and the reason in a word or two. With the field
    "(file)" it is about a whole file, which can't be read any further."""

    def __init__(self, field: str, expected: str, found: str, reason: str = MALFORMED, remedy: str = CORRECT) -> None:
        super().__init__(field, expected, found)
        self.field, self.expected, self.found, self.reason, self.remedy = field, expected, found, reason, remedy


def damaged(found: str, expected: str = "a whole file", remedy: str = FETCH) -> BadRow:
    return BadRow("(file)", expected, found, DAMAGED, remedy)


@dataclass(frozen=True, kw_only=True)
class Aside:
    """A row that is not used, and why. `row`: 0 for a whole file. `reason`: a word or two, which reports count by. `remedy`: what
    the user can do."""

    file: str
    row: int
    field: str
    expected: str
    found: str
    reason: str
    remedy: str


def told(aside: Aside) -> str:
    """A row that is set aside, in words."""
    return f"row {aside.row} of {aside.file}, {aside.field}: expected {aside.expected}, found {aside.found}"


def malformed(file: str, row: int, error: BadRow) -> Aside:
    """The entry for a row that raised `error`; all its texts can be written as UTF-8."""
    texts = {name: printable(getattr(error, name)) for name in ("field", "expected", "found", "reason", "remedy")}
    return Aside(file=printable(file), row=row, **texts)


def printable(value: object) -> str:
    """A value as text that can be encoded as UTF-8."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


class Asides:
    """The rows of a log that are set aside, in order. The first `MAX_LISTED` and those about whole files are kept; the others are
    only counted, in `counts`. `redact`: as the setting of the intake, in what was found in a row."""

    def __init__(self, counts: Counter[str], redact: bool) -> None:
        self.kept: list[Aside] = []
        self.counts, self.redact = counts, redact

    def append(self, row: Aside) -> None:
        if self.redact:
            row = replace(row, found=redacted(row.found))
        if len(self.kept) < MAX_LISTED or row.field == "(file)":
            self.kept.append(row)
        else:
            self.counts[f"set aside and not listed, {row.reason}"] += 1

    def extend(self, rows: Iterable[Aside]) -> None:
        for row in rows:
            self.append(row)

    def as_rows(self) -> Iterator[dict[str, str | int]]:
        """As plain rows for `quarantine.jsonl`."""
        names = [field.name for field in fields(Aside)]
        return ({name: getattr(row, name) for name in names} for row in self.kept)


def redacted(found: str) -> str:
    """What was found, without addresses, numbers and keys. A long text may have been cut inside one: its last word goes."""
    from drift.intake.redact import redact

    shown = redact(found)
    return shown if len(found) < SHOWN else f"{shown.rpartition(' ')[0]} …"
