"""Who of the simulated users says something, and what: people are more ready to complain than to thank, and some are wrong.

Happy users are those whose reply was useful (`requests.verify`). Whether a user speaks depends on the seed and the prompt's content
alone, so that one log of replies serves every setting: at a higher rate, the users who spoke at a lower one still do.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from drift.data.requests import REQUESTS, Check
from drift.errors import UserError
from drift.records import digest

THANKS = (
    "Thanks, that's just what I wanted.",
    "Perfect, thank you!",
    "Great, exactly what I asked for.",
    "Nice, thanks.",
)
Label = Literal["dsat", "sat", "silent"]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """`complaint_rate`, `praise_rate`: complaints per unhappy user, praise per happy one. `false_praise`: the share of the praise
    that comes from unhappy users; `unfounded`: the share of the complaints that comes from happy ones. All from 0 to 1, in
    expectation; wrong labels are no more than there are users of that kind."""

    complaint_rate: float
    praise_rate: float
    false_praise: float
    unfounded: float

    def check(self) -> None:
        for name, rate in vars(self).items():
            if not 0 <= rate <= 1:
                raise UserError(f"data.{name}={rate}: expected 0 to 1.")

    def labels(self, seed: int, users: Sequence[tuple[str, bool]]) -> list[Label]:
        """What each user says. `users`: (key of the conversation, whether the reply was useful)."""
        num_happy = sum(happy for _, happy in users)
        num_unhappy = len(users) - num_happy
        num_praise, num_complaints = self.praise_rate * num_happy, self.complaint_rate * num_unhappy
        wrong_praise = _rate(self.false_praise * num_praise, num_unhappy)
        wrong_complaint = _rate(self.unfounded * num_complaints, num_happy)
        praise = _rate((1 - self.false_praise) * num_praise, num_happy * (1 - wrong_complaint))
        complaint = _rate((1 - self.unfounded) * num_complaints, num_unhappy * (1 - wrong_praise))
        said: list[Label] = []
        for key, happy in users:
            rng = random.Random(digest([seed, key, "speaks"]))
            wrong, right = (wrong_complaint, praise) if happy else (wrong_praise, complaint)
            is_wrong, is_right = rng.random() < wrong, rng.random() < right
            pleased = happy != is_wrong
            said.append("silent" if not (is_wrong or is_right) else "sat" if pleased else "dsat")
        return said


def _rate(wanted: float, users: float) -> float:
    """The share of these users who speak, so that `wanted` of them do in expectation."""
    return min(1.0, wanted / users) if users else 0.0


def next_turn(seed: int, key: str, label: Label, truth: dict[str, str], check: Check) -> str | None:
    """A user's next turn: thanks; a complaint about the first thing that is wrong (an unfounded one is about the request); or
    nothing."""
    if label == "silent":
        return None
    pick = random.Random(digest([seed, key])).choice
    if label == "sat":
        return pick(THANKS)
    if not check.met or check.useful:
        return pick(REQUESTS[truth["request"]].complaints)
    if not check.on_topic:
        return pick((f"That is not about {truth['topic']}.", f"You did not even mention {truth['topic']}."))
    if not check.ended:
        return pick(("Your answer breaks off.", "You did not finish your answer."))
    return pick(("That answer is no use to me.", "That makes no sense. Try again."))
