"""What the questions of a run may cost, and what they did: reserved before a question is asked, so that no cap is exceeded."""

import threading


class Budget:
    """What the questions of a run cost, whoever paid, and what is set apart for those under way; for all threads. As long as nobody
    knows what an answer costs, the first question has all the rest set apart, so that the others wait for it."""

    def __init__(self, dollars: float) -> None:
        self.dollars, self.used, self.dearest, self.known, self.guessed = dollars, 0.0, 0.0, False, False
        self.spent: dict[str, tuple[float, int]] = {}  # by question, with the number of tries
        self.apart: dict[str, float] = {}
        self.changed = threading.Condition()

    def count(self, name: str, dollars: float, tries: int) -> None:
        """What was spent on a question before, by this run or another."""
        with self.changed:
            if dollars and name not in self.spent:
                self._add(name, dollars, tries)

    def reserve(self, name: str, most: float) -> bool:
        """Sets apart what a question can cost, as soon as there is so much; False if there never will be."""
        with self.changed:
            self.dearest = max(self.dearest, most)
            while True:
                left = (self.dollars - self.used) * (1 + 1e-9) + 1e-12
                need = self.dearest if self.known else left
                if self.dearest > left:
                    return False
                if need <= left - sum(self.apart.values()):
                    self.apart[name] = need
                    return True
                self.changed.wait()

    def settle(self, name: str, dollars: float) -> tuple[float, int]:
        """What it did cost; returns what the question has cost in all, and in how many tries."""
        with self.changed:
            del self.apart[name]
            self._add(name, dollars, 1)
            self.changed.notify_all()
            return self.spent[name]

    def _add(self, name: str, dollars: float, tries: int) -> None:
        before, times = self.spent.get(name, (0.0, 0))
        self.spent[name] = before + dollars, times + tries
        self.used += dollars
        self.dearest, self.known = max(self.dearest, dollars / tries), True

    def first_guess(self) -> bool:
        """True once."""
        with self.changed:
            self.guessed, before = True, self.guessed
            return not before
