"""Checks plain data against the fields of a dataclass, and builds the object. The file may come from somebody else.

The dataclass is the only schema: its fields with their types; those without a default are required. A number is finite and below
1e15; a measured number may also be NaN or infinite, because a policy may be broken.
"""

import math
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union

MOST_NUMBER, MOST_ITEMS, MOST_DIGITS = 1e15, 2_000_000, 12
MOST_LISTED, MOST_TEXT = 10_000, 1_000_000  # entries of a list, characters of a text

Measured = Annotated[float, "may be nan or infinite"]
Digits = Annotated[int, "of a number, when it is shown"]


def mismatch(value: Any, hint: Any, where: str = "") -> str | None:
    """'points[0].name: expected text, found 3' for the first part of `value` that does not fit `hint`; None if all of it fits."""
    if fits(hint)(value):
        return None
    here = where.lstrip(".")[:100] or "it"
    options = typing.get_args(hint)
    if _is_union(hint) and isinstance(value, dict):  # if one of the options is an object, report what is wrong in it
        objects = [option for option in options if is_dataclass(option) or typing.get_origin(option) is dict]
        hint, options = (objects[0], typing.get_args(objects[0])) if objects else (hint, options)
    origin = typing.get_origin(hint)
    inner: list[tuple[Any, Any, str]] = []
    if is_dataclass(hint) and isinstance(value, dict):
        if lacking := sorted(required(hint) - value.keys()):
            return f"{here} lacks {', '.join(lacking)}"
        inner = [(value[key], kind, f"{where}.{key}") for key, kind in hints(hint).items() if key in value]
    elif origin is dict and isinstance(value, dict):
        inner = [(item, options[1], f"{where}.{key}") for key, item in value.items()]
    elif origin is list and isinstance(value, list) and len(value) <= MOST_LISTED:
        inner = [(item, options[0], f"{where}[{i}]") for i, item in enumerate(value)]
    problem = next((problem for part in inner if (problem := mismatch(*part))), None)
    return problem or f"{here}: expected {_name(hint)}, found {repr(value)[:60]}"


def build(value: Any, hint: Any) -> Any:
    """The objects that plain data stands for; `value` must fit `hint`."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return hint(**{key: build(value[key], kind) for key, kind in hints(hint).items() if key in value})  # type: ignore[operator]
    if origin is dict and options[1] not in PLAIN:
        return {key: build(item, options[1]) for key, item in value.items()}
    if origin is list:
        return [build(item, options[0]) for item in value]
    if _is_union(hint):
        return build(value, next(option for option in options if fits(option)(value)))
    return value


def plain(value: Any) -> Any:
    """Objects as plain data, without the optional fields that are None."""
    if is_dataclass(value):
        items = {name: getattr(value, name) for name in hints(type(value))}
        return {name: plain(item) for name, item in items.items() if name in required(type(value)) or item is not None}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@cache
def required(kind: Any) -> frozenset[str]:
    """The names of a dataclass's fields that have no default."""
    return frozenset(item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING)


@cache
def hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


@cache
def fits(hint: Any) -> Callable[[Any], bool]:
    """A function that checks whether a value fits `hint`; cached, because logs have many rows."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value: True
    if is_dataclass(hint):
        needed = required(hint)
        parts = [(key, fits(kind)) for key, kind in hints(hint).items()]
        return lambda value: (
            isinstance(value, dict) and needed <= value.keys() and all(ok(value[key]) for key, ok in parts if key in value)
        )
    if origin is dict:
        item = fits(options[1])
        return lambda value: isinstance(value, dict) and len(value) <= MOST_ITEMS and all(map(item, value.values()))
    if origin is list:
        item = fits(options[0])
        return lambda value: isinstance(value, list) and len(value) <= MOST_LISTED and all(map(item, value))
    if _is_union(hint):
        any_of = [fits(option) for option in options]
        return lambda value: any(ok(value) for ok in any_of)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in options
    return PLAIN[hint]


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, Union)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST_NUMBER  # which excludes NaN


PLAIN: dict[Any, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str) and len(value) <= MOST_TEXT,
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, int) and _number(value),
    float: _number,
    Measured: lambda value: _number(value) or isinstance(value, float) and not math.isfinite(value),
    Digits: lambda value: isinstance(value, int) and _number(value) and 0 <= value <= MOST_DIGITS,
    types.NoneType: lambda value: value is None,
}


def _name(hint: Any) -> str:
    if _is_union(hint) or typing.get_origin(hint) is Literal:
        return " or ".join(_name(option) for option in typing.get_args(hint))
    kinds = {str: "text", int: "a whole number", float: "a number", Measured: "a number", bool: "true or false"}
    kinds |= {Digits: f"a whole number up to {MOST_DIGITS}", types.NoneType: "null", dict: "an object", list: "a list"}
    return kinds.get(hint) or kinds.get(typing.get_origin(hint)) or (hint if isinstance(hint, str) else "an object")
