"""What the questions of a run may cost, and what they did: reserved before a question is asked, so that no cap is exceeded."""

import asyncio


class Budget:
    """What the questions of a run cost, whoever paid, and what is set apart for those under way. As long as nobody knows what an
    answer costs, the first question has all the rest set apart, so that the others wait for it."""

    def __init__(self, dollars: float) -> None:
        self.dollars, self.used, self.dearest, self.known, self.guessed = dollars, 0.0, 0.0, False, False
        self.spent: dict[str, tuple[float, int]] = {}  # by question, with the number of tries
        self.apart: dict[str, float] = {}
        self.waiting: list[asyncio.Future[None]] = []

    def count(self, name: str, dollars: float, tries: int) -> None:
        """What was spent on a question before, by this run or another."""
        if dollars and name not in self.spent:
            self._add(name, dollars, tries)

    async def reserve(self, name: str, most: float) -> bool:
        """Sets apart what a question can cost, as soon as there is so much; False if there never will be."""
        self.dearest = max(self.dearest, most)
        while True:
            left = (self.dollars - self.used) * (1 + 1e-9) + 1e-12
            need = self.dearest if self.known else left
            if self.dearest > left:
                return False
            if need <= left - sum(self.apart.values()):
                self.apart[name] = need
                return True
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]

    def settle(self, name: str, dollars: float) -> tuple[float, int]:
        """What it did cost; returns what the question has cost in all, and in how many tries."""
        del self.apart[name]
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

    def first_guess(self) -> bool:
        """True once."""
        self.guessed, before = True, self.guessed
        return not before
