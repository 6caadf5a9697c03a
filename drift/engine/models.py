"""Which model is open: one at a time."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any


class OneModel:
    """Opens models when they are needed; the one that is open is closed before another opens. Use as a context manager: the last
    one is closed at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._name: Any = None  # of the one that is open
        self._function: Any = None  # what it yielded

    def __enter__(self) -> "OneModel":
        return self

    def __exit__(self, *error: Any) -> None:
        self._name = self._function = None
        self._stack.close()

    def get(self, name: Any, opened: Callable[[], AbstractContextManager[Any]]) -> Any:
        """What `opened()` yields. `name` tells models apart: the same one stays open."""
        if self._name != name:
            self.__exit__()
            self._function = self._stack.enter_context(opened())
            self._name = name
        return self._function
