"""The budget for the questions of a run: a question's cost is reserved before it is asked, so the cap is never exceeded."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from drift.engine.questions import most_tokens

BYTES_PER_TOKEN, SHARE_ANSWERED = 4, 0.5  # for the estimate: of English; of the tokens that an answer may have


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Dollars for a million tokens sent, and for a million answered."""

    sent: float
    answered: float

    def of(self, sent: float, answered: float) -> float:
        """The price of tokens sent and answered, in dollars."""
        return (sent * self.sent + answered * self.answered) / 1e6

    def most(self, request: dict[str, Any]) -> float:
        """The most that a request may cost in dollars."""
        return self.of(*most_tokens(request))

    def estimate(self, requests: Collection[dict[str, Any]], cap: str) -> str:
        """What these requests will cost, in words. `cap`: the setting that limits it, with its value."""
        sent, answered = (sum(counts) for counts in zip(*(most_tokens(request) for request in requests), strict=True))
        likely = self.of(sent / BYTES_PER_TOKEN, SHARE_ANSWERED * answered)
        if not likely:
            return f"no price is given, so {cap} has no effect"
        each = likely / len(requests)
        most = self.of(sent, answered)
        return f"about {likely:.3g} dollars ({each:.3g} each), {most:.3g} at most; {cap} for all of its questions in this run"


class Budget:
    """What the questions of a run have cost (paid by this run or an earlier one), and what is reserved for those under way. Until
    the cost of one answer is known, the first question reserves everything that is left, so the others wait for it."""

    def __init__(self, dollars: float) -> None:
        self.dollars, self.used, self.dearest, self.known = dollars, 0.0, 0.0, False
        self.finished = set[str]()  # stages whose cost is counted
        self.said = set[str]()
        self.spent: dict[str, tuple[float, int]] = {}  # by question: (dollars, number of tries)
        self.reserved: dict[str, float] = {}
        self.waiting: list[asyncio.Future[None]] = []

    def count(self, name: str, dollars: float, tries: int) -> None:
        """Adds what was spent on a question before, by this run or another."""
        if dollars and name not in self.spent:
            self._add(name, dollars, tries)

    def count_stage(self, stage: str, dollars: float) -> None:
        """Adds, once, what the questions of a finished stage cost an earlier run."""
        if stage not in self.finished:
            self.finished.add(stage)
            self.used += dollars

    async def reserve(self, name: str, most: float) -> bool:
        """Reserves what a question may cost, waiting until that much is free; False if it never will be."""
        self.dearest = max(self.dearest, most)
        while True:
            left = (self.dollars - self.used) * (1 + 1e-9) + 1e-12
            need = self.dearest if self.known else left
            if self.dearest > left:
                return False
            if need <= left - sum(self.reserved.values()):
                self.reserved[name] = need
                return True
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]

    def settle(self, name: str, dollars: float) -> tuple[float, int]:
        """Replaces the reservation by the actual cost; returns the question's total cost and number of tries."""
        del self.reserved[name]
        self._add(name, dollars, 1)
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)
        self.waiting.clear()
        return self.spent[name]

    def _add(self, name: str, dollars: float, tries: int) -> None:
        before, times = self.spent.get(name, (0.0, 0))
        self.spent[name] = before + dollars, times + tries
        self.used += dollars
        self.dearest, self.known = max(self.dearest, dollars / tries), True

    def first(self, what: str) -> bool:
        """True on the first call with this word only."""
        new = what not in self.said
        self.said.add(what)
        return new


@runtime_checkable
class Paid(Protocol):
    """A judge or sampler whose answers cost money. `Ask` tells its budget what those that are in the store have cost; with several
    ranks, rank 0 alone asks it, so that there is one budget."""

    @property
    def budget(self) -> Budget: ...


def charged(part: Paid, spent: Mapping[str, float], name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, with what the part's answers cost under `name`, KIND/KEY. `spent`: what the stages that this run has found
    or computed cost, by such names; those of the same kind count for the budget."""
    for earlier, dollars in spent.items():
        if earlier.partition("/")[0] == name.partition("/")[0]:
            part.budget.count_stage(earlier, dollars)
    used = part.budget.used
    facts = make()
    part.budget.finished.add(name)
    return facts | {"dollars": {name: part.budget.used - used}}
