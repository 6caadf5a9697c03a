"""Paths among the settings on the command line. Hydra's grammar does not accept all file names (no spaces beside brackets, no
accents, no `=`), and takes a folder named 2024 for a number, so such values are quoted before Hydra parses them."""

import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.intake.aside import printable

PATH = re.compile(r"(^|[._])(path|dir)$")  # data.path, model.path, store.dir, mine.endpoint.cache_dir, …


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line, with NAME in key.path=NAME quoted where Hydra would misread it. A sweep (`a.jsonl,b.jsonl`),
    null, `${…}` and quoted values stay as they are, unless a file has exactly that name. Raises UserError for a name that is not
    UTF-8."""
    for argument in arguments:
        if argument != printable(argument):
            raise UserError(f"{printable(argument)}: this name is not valid UTF-8. Rename the file, or use a link to it.")
    return [_quoted(argument) for argument in arguments]


def check_choices(arguments: Sequence[str], conf: Path) -> None:
    """Refuses what can't choose an option of a group in the folder `conf`; Hydra answers with a traceback."""
    defaults = read_defaults(conf)
    for argument in arguments:
        key, sign, _ = argument.lstrip("+~").partition("=")
        if key not in defaults:
            continue
        known = ", ".join(sorted(file.stem for file in (conf / key.partition("@")[0]).glob("*.yaml")))
        if argument.startswith("~"):
            raise UserError(f"{argument}: a run can't go without it. Choose an option instead, {key}=NAME: {known}.")
        value = _read(argument) if sign else Unreadable
        if isinstance(value, list) and isinstance(defaults[key], str):
            named = ",".join(map(str, value))
            raise UserError(f"{argument}: {key} takes one option. To compare several: -m {key}={named}")
        wrong = any(not isinstance(one, str) for one in value) if isinstance(value, list) else isinstance(value, int | float)
        if value is None and defaults[key] is None:
            raise UserError(f"{argument}: leave this out, and there is none.")
        if wrong or isinstance(value, dict) or value is None:
            raise UserError(f"{argument}: expected the name of an option of {key}: {known}.")


@cache
def read_defaults(conf: Path) -> dict[str, Any]:
    """Group -> the option that config.yaml chooses: a name, a list of names, or None."""
    from omegaconf import OmegaConf

    entries: Any = OmegaConf.to_object(OmegaConf.load(conf / "config.yaml").defaults)
    return {key: option for entry in entries if isinstance(entry, dict) for key, option in entry.items()}


def literal(name: str) -> str:
    """A file's name in a form whose leading ~ is not taken for a home directory."""
    return str(Path(name).absolute()) if name.startswith("~") and _exists(name, Path(name)) else name


def override(key: str, value: str) -> str:
    """`key=value` for Hydra, with the value taken literally."""
    from hydra.core.override_parser.types import Quote, QuotedString

    for _ in range(1 if key.lstrip("+").startswith("hydra.") else 2):  # it is parsed once more when the parts are built
        value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return f"{key}={QuotedString(text=value, quote=Quote.single).with_quotes()}"


def unreadable(error: Exception) -> str:
    """Hydra's error about an override that it can't parse, and how to quote it."""
    from hydra.errors import OverrideParseException

    if listed := re.match(r"Ambiguous value for argument '(.*)'$", str(error), re.MULTILINE):
        key, _, value = listed[1].partition("=")
        return (
            f"{listed[1]}: a value with commas is several values, for a sweep (-m). As one value, in quotes, for the shell and for "
            f"Hydra: {shlex.quote(override(key, value))}; as a list: {shlex.quote(f'{key}=[{value}]')}"
        )
    if not isinstance(error, OverrideParseException):
        return str(error)
    key, sign, value = error.override.partition("=")
    if not sign:
        return f"{error.override} is not a setting. Expected the form key=value."
    quoted = override(key, value)
    if value.startswith("[") and value.endswith("]"):  # a list stays a list: its items are quoted
        quoted = f"{key}=[{','.join(override('', item.strip())[1:] for item in value[1:-1].split(','))}]"
    return f"{error.override}: Hydra can't read this value. Give it in quotes, for the shell and for Hydra: {shlex.quote(quoted)}"


def _quoted(argument: str) -> str:
    key, sign, value = argument.partition("=")
    if not sign or key.startswith("-") or not PATH.search(key):
        return argument
    value, parts = literal(value), value.split(",")
    if _exists(value):
        same = _read(argument) == value and "${" not in value
        return argument if same else override(key, value)
    if len(parts) > 1 and all(map(_exists, parts)):
        return ",".join([override(key, literal(parts[0])), *(override("", literal(part))[1:] for part in parts[1:])])
    read = _read(argument)
    return override(key, value) if read is Unreadable or isinstance(read, int | float) else argument


def _exists(name: str, path: Path | None = None) -> bool:
    try:
        return (path or Path(name).expanduser()).exists()
    except (OSError, ValueError, RuntimeError):  # too long, or the home of an unknown user
        return False


class Unreadable:
    """Stands for a value that Hydra can't parse."""


def _read(argument: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return Unreadable
