"""All three steps of the miner: the classifier (with the rules among its features), and a language model for what it is unsure of.

The judge reads the request, the reply and the user's next turn, with a rubric in our own words after the idea of SPUR (arXiv
2403.12388) and of experiments/miner/GUIDELINE.md. Its word stands where the classifier's probability of DSAT or SAT lies between
`unsure` and the threshold; an answer that can't be read counts as none.
"""

import re
from dataclasses import dataclass
from typing import Any, cast

from drift.data.conversations import CATEGORIES, Label, Verdict
from drift.endpoint import Endpoint
from drift.errors import UserError
from drift.mine import rules
from drift.mine.classifier import Classifier
from drift.mine.features import Turn
from drift.records import Message
from drift.report.console import Progress

VERSION = 1
LONGEST = 1500  # characters of a text that the judge reads
RUBRIC = f"""You judge what a user's next turn says about an assistant's reply.
dsat: the turn shows that the reply was not what the user wanted. It says so, repairs it, or asks for the same thing again because \
of how the reply was (shorter, more specific, another try, the error that its code gave).
sat: the turn shows that the user is content (thanks, praise, "it works").
both: praise and a complaint. none: anything else, as a new question, a new task, a next step, "continue", an answer to a question.
A new wish for the same text (another language, another subject, another form) is none. Thanks in advance are none.
Answer with one line: LABEL CATEGORY CONFIDENCE. LABEL is dsat, sat, both or none, CATEGORY is one of {", ".join(CATEGORIES)} \
(or - for sat and none), and CONFIDENCE is a number between 0 and 1."""
ANSWER = re.compile(r"\b(dsat|sat|both|none)\b\W+([a-z_]+|-)?\W*(\d?\.?\d+)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """`unsure`: from this probability on, and below the classifier's threshold, the judge is asked."""

    classifier: Classifier
    endpoint: Endpoint
    unsure: float

    def check(self) -> None:
        self.classifier.check()
        self.endpoint.check()
        if not 0 <= self.unsure < max(self.classifier.dsat_threshold, self.classifier.sat_threshold):
            raise UserError(f"mine.unsure={self.unsure}: expected at least 0 and below the classifier's thresholds.")

    def check_packages(self) -> None:
        self.classifier.check_packages()

    def key(self) -> dict[str, Any]:
        return self.classifier.key() | {"miner": "cascade", "judge": [VERSION, self.endpoint.key()], "unsure": self.unsure}

    def judge(self, conversations: list[list[Message]]) -> list[dict[int, Verdict]]:
        """As the classifier's."""
        found = self.classifier.judge(conversations)
        open_ones = [
            (number, i)
            for number, verdicts in enumerate(found)
            for i, verdict in verdicts.items()
            if verdict.label == "none" and 1 - verdict.confidence >= self.unsure
        ]
        questions = [question(rules.turn(conversations[number], i)) for number, i in open_ones]
        with Progress("judging uncertain turns", total=len(questions), unit="turns") as bar:
            answers = self.endpoint.ask(questions, bar.advance, temperature=0.0, max_tokens=20)
        for (number, i), answer in zip(open_ones, answers, strict=True):
            if answer is not None:
                found[number][i] = read(answer)
        return found


def question(turn: Turn) -> list[Message]:
    request, reply, said = (
        text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} […] {text[-LONGEST // 2 :]}" for text in turn
    )
    text = f"{RUBRIC}\n\n<request>\n{request}\n</request>\n<reply>\n{reply}\n</reply>\n<next_turn>\n{said}\n</next_turn>"
    return [{"role": "user", "content": text}]


def read(answer: str) -> Verdict:
    """The judge's line as a verdict."""
    found = ANSWER.search(answer)
    label = cast(Label, found.group(1).lower()) if found else "none"
    category = found.group(2).lower() if found and found.group(2) else None
    confidence = min(1.0, float(found.group(3))) if found and found.group(3) else 0.5
    return Verdict(
        label=label,
        category=category if label in ("dsat", "both") and category in CATEGORIES else None,
        confidence=confidence,
        detector="judge",
        evidence=answer.strip()[:200] or None,
    )
