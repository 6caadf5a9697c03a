"""What simulated users must offer: a contract like those of drift/parts.py, of a source that no files are read for."""

# pyright: reportReturnType=false
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from drift.parts import Ask, Item, Keyed, Source
from drift.records import Prompt


class Task(Item, Protocol):
    """One thing that a simulated user asks for. `truth`: what a verifier needs to check a reply."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def truth(self) -> dict[str, str]: ...


class Simulation(Source, Keyed, Protocol):
    """A source with `uses_policy` true: simulated users, who react to any policy. `second_tries`: the assistant also answers
    complaints. `system`: the system message of every conversation, or None. `deployed`: a `drift.data.deployment.Deployed`, the
    assistant that wrote the first log."""

    @property
    def seed(self) -> int: ...

    @property
    def second_tries(self) -> bool: ...

    @property
    def system(self) -> str | None: ...

    @property
    def deployed(self) -> Any: ...

    def at(self, iteration: int) -> "Simulation": ...  # the users of an iteration

    def collect(self, ask: Ask) -> Any:
        """The users' feedback on the policy's replies: a `drift.intake.collected.Collected`."""

    def tasks(self, split: Literal["train", "validation", "test"], count: int) -> Sequence[Task]:
        """`count` different tasks of a split; no two splits share a topic. Raises `UserError` where it has fewer."""

    def tasks_key(self) -> dict[str, Any]: ...  # what they depend on
