"""Settings on the command line that are paths: Hydra's grammar knows few of the names that a file system allows (no spaces beside
brackets, no accents, no `=`), and takes a folder named 2024 for a number. Such values are quoted before Hydra sees them."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.intake.aside import printable

PATH = re.compile(r"(^|[._])(path|dir)$")  # data.path, model.path, store.dir, mine.endpoint.cache_dir, …


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line; those of the form key.path=NAME say NAME to Hydra, whatever is in it. What Hydra reads as
    itself stays as it is, and so do a sweep (`a.jsonl,b.jsonl`), null, `${…}` and what is quoted, unless a file has that very name.
    Raises UserError for a name that is not UTF-8."""
    for argument in arguments:
        if argument != printable(argument):
            raise UserError(f"{printable(argument)}: this name is not valid UTF-8. Rename the file, or give a link to it.")
    return [_quoted(argument) for argument in arguments]


def literal(name: str) -> str:
    """A file's name so that a ~ it begins with is not taken for a home directory."""
    return str(Path(name).absolute()) if name.startswith("~") and _there(name, Path(name)) else name


def override(key: str, value: str) -> str:
    """`key=value`, the value taken literally."""
    from hydra.core.override_parser.types import Quote, QuotedString

    for _ in range(1 if key.lstrip("+").startswith("hydra.") else 2):  # it is read once more when the parts are built
        value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return f"{key}={QuotedString(text=value, quote=Quote.single).with_quotes()}"


def unreadable(error: Exception) -> str:
    """Hydra's complaint about an override that it can't parse, and how to quote it."""
    from hydra.errors import OverrideParseException

    if not isinstance(error, OverrideParseException):
        return str(error)
    key, sign, value = error.override.partition("=")
    if not sign:
        return f"{error.override} is no setting. Expected the form key=value."
    return (
        f"{error.override}: Hydra can't read this value. Give it in quotes, for the shell and for Hydra: "
        f"{shlex.quote(override(key, value))}"
    )


def _quoted(argument: str) -> str:
    key, sign, value = argument.partition("=")
    if not sign or key.startswith("-") or not PATH.search(key):
        return argument
    value, parts = literal(value), value.split(",")
    if _there(value):
        same = _read(argument) == value and "${" not in value
        return argument if same else override(key, value)
    if len(parts) > 1 and all(map(_there, parts)):
        return ",".join([override(key, literal(parts[0])), *(override("", literal(part))[1:] for part in parts[1:])])
    read = _read(argument)
    return override(key, value) if read is Unreadable or isinstance(read, int | float) else argument


def _there(name: str, path: Path | None = None) -> bool:
    try:
        return (path or Path(name).expanduser()).exists()
    except (OSError, ValueError, RuntimeError):  # too long, a home that nobody has
        return False


class Unreadable:
    """What Hydra can't parse."""


def _read(argument: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return Unreadable
