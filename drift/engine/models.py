"""Keeps one model open at a time."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any


class OneModel:
    """Opens models when they are needed; the open one is closed before another is open_model. Use as a context manager: the last
    one is closed at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._name: Any = None  # of the open model
        self._function: Any = None  # what its context manager yielded

    def __enter__(self) -> "OneModel":
        return self

    def __exit__(self, *error: Any) -> None:
        self._name = self._function = None
        self._stack.close()

    def get(self, name: Any, open_model: Callable[[], AbstractContextManager[Any]]) -> Any:
        """What `open_model()` yields. `name` identifies the model: if it is the one that is open, it stays open."""
        if self._name != name:
            self.__exit__()
            self._function = self._stack.enter_context(open_model())
            self._name = name
        return self._function
