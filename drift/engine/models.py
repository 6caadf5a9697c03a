"""Keeps one model open at a time, on each rank."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from drift.engine import ranks


@runtime_checkable
class Local(Protocol):
    """A judge that reads with a model in this process. With several devices it is opened on each, and groups are shared out; any
    other judge is asked by rank 0 alone."""

    def model(self) -> Any:
        """The model, a `drift.model.policy.Policy`."""


@runtime_checkable
class LoadsNothing(Protocol):
    """A judge that needs no memory in this process, so that whatever model is open stays open while it judges."""

    loads_nothing: ClassVar[Literal[True]]


class OneModel:
    """Opens models when they are needed; the open one is closed before another is opened. Use as a context manager: the last
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

    def has(self, name: Any) -> bool:
        """Whether this model is the open one."""
        return self._name == name

    def get(self, name: Any, open_model: Callable[[], AbstractContextManager[Any]]) -> Any:
        """What `open_model()` yields. `name` identifies the model: if it is the one that is open, it stays open."""
        if not self.has(name):
            self.__exit__()
            self._function = self._stack.enter_context(open_model())
            self._name = name
        return self._function


_of_this_rank = OneModel()


def opened(name: Any, open_model: Callable[[], AbstractContextManager[Any]]) -> Any:
    """The model of this rank with this name: what `open_model()` yields, once."""
    return _of_this_rank.get(name, open_model)


def opened_here_alone(name: Any, open_model: Callable[[], AbstractContextManager[Any]]) -> Any:
    """The same on rank 0, when the others have closed theirs."""
    if not _of_this_rank.has(name):
        ranks.everywhere(close)
    return opened(name, open_model)


def close() -> None:
    """Closes the model of this rank."""
    _of_this_rank.__exit__()
