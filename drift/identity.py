"""The identity of a configured part (a method, a judge, a sampler, …) in a stage's key: its class, its code and its settings.

The code is the sha256 of the source files that define the class and its bases; for a part outside this package, also of the user's
own modules that those files import. So a changed line means a new stage, and two classes with the same name never share one.
Content is hashed, not the commit, because a working tree can change without a commit. Imports among the shipped parts are not
followed, or a changed error message would cost a study: they are covered by the `VERSION` of the stage that uses them."""

import ast
import hashlib
import importlib.util
import inspect
import sysconfig
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.parts import Keyed
from drift.records import digest

HERE = Path(__file__).resolve().parent
INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]


def identity(part: Any) -> Any:
    """A part as plain data, nested parts included: its class, its code and its settings; or, instead of all settings, the result of
    its `key()` (those that change a result)."""
    if isinstance(part, (list, tuple)):
        return [identity(item) for item in part]
    if isinstance(part, dict):
        return {str(name): identity(item) for name, item in part.items()}
    if part is None or isinstance(part, (str, int, float)):
        return part
    if not is_dataclass(part):
        raise UserError(f"{type(part).__qualname__} can't be part of a key. Expected a dataclass (see drift/method/drift.py).")
    own = part.key() if isinstance(part, Keyed) else {item.name: getattr(part, item.name) for item in fields(part) if item.init}
    return named(part) | identity(own)


def named(part: Any) -> dict[str, str]:
    """The class of a part and its code."""
    kind = type(part)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "code": code(kind)}


@cache
def code(kind: Any) -> str:
    """The sha256 over the source files of a class or a function (see above)."""
    files: dict[Path, str] = {}
    for base in inspect.getmro(kind) if inspect.isclass(kind) else (kind,):
        try:
            file = Path(inspect.getfile(base)).resolve()
        except (TypeError, OSError) as error:  # built in, or defined interactively
            if base is kind:
                raise UserError(f"{kind.__qualname__} has no source file. Expected a class of an importable module.") from error
            continue
        if base is kind or file.is_relative_to(HERE) or _user(file):
            _read(file, files)
    return digest(sorted(files.values()))


def _read(file: Path, files: dict[Path, str]) -> None:
    """Adds the sha256 of a file and of the user's own modules that it imports."""
    if file in files:
        return
    source = file.read_bytes()
    files[file] = hashlib.sha256(source).hexdigest()
    if not file.is_relative_to(HERE):
        for imported in _imports(file, _parsed(source)):
            if imported.suffix == ".py" and _user(imported):
                _read(imported, files)


def _parsed(source: bytes) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:  # not really used: written for another Python version, for example
        return ast.Module([], [])


def _imports(file: Path, tree: ast.Module) -> Iterator[Path]:
    """The files that a source file's import statements may refer to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (found for alias in node.names for found in _module_file(alias.name))
        elif isinstance(node, ast.ImportFrom):
            names = ["", *(f".{alias.name}" for alias in node.names)]
            if not node.level:
                yield from (found for name in names for found in _module_file(f"{node.module}{name}"))
                continue
            for name in names:  # from .helpers import f
                path = file.parents[node.level - 1].joinpath(*f"{node.module or ''}{name}".strip(".").split("."))
                yield from (found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file())


def _module_file(name: str) -> Iterator[Path]:
    """The file of a module, searched for only if its package is the user's own, because finding a module imports its parents."""
    try:
        for known in (name.partition(".")[0], name):
            spec = importlib.util.find_spec(known)
            places = [spec.origin] if spec and spec.origin else list(spec.submodule_search_locations or []) if spec else []
            if not all(_user(Path(place)) for place in places) or not places:
                return
    except (ImportError, AttributeError, ValueError):
        return
    yield from (Path(place).resolve() for place in places if Path(place).is_file())


def _user(place: Path) -> bool:
    """Whether a file is the user's own: not of this package, Python or an installed package, whose versions are in the manifest."""
    return not any(place.resolve().is_relative_to(there) for there in (HERE, *INSTALLED))
