"""All three steps of the miner: the classifier (with the rules among its features), and an LLM for the turns it is unsure about.

The LLM gets the request, the reply and the user's next turn, with a rubric of our own that follows the idea of SPUR (arXiv
2403.12388) and experiments/miner/GUIDELINE.md. Its answer decides where the classifier's probability of DSAT or SAT lies between
`unsure` and the threshold. An answer that can't be parsed is counted, and the classifier's opinion stays. If there is no answer
(the budget is reached, the server fails), mining stops, and the same command continues from there."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, cast

from drift.console import Progress
from drift.engine.answer import without_thoughts
from drift.engine.endpoint import Endpoint
from drift.engine.questions import limit
from drift.errors import UserError
from drift.intake.conversations import CATEGORIES, Label, Opinion
from drift.mine import rules
from drift.mine.classifier import Classifier
from drift.mine.features import Turn
from drift.records import Message

VERSION = 2
LONGEST, MAX_TOKENS = 1500, 20  # characters of each text that the LLM gets; tokens of its answer
RUBRIC = f"""You judge what a user's next turn says about an assistant's reply.
dsat: the turn shows that the reply was not what the user wanted. It says so, repairs it, or asks for the same thing again because \
of how the reply was (shorter, more specific, another try, the error that its code gave).
sat: the turn shows that the user is content (thanks, praise, "it works").
both: praise and a complaint. none: anything else, as a new question, a new task, a next step, "continue", an answer to a question.
A new wish for the same text (another language, another subject, another form) is none. Thanks in advance are none.
Answer with one line: LABEL CATEGORY CONFIDENCE. LABEL is dsat, sat, both or none, CATEGORY is one of {", ".join(CATEGORIES)} \
(or - for sat and none), and CONFIDENCE is a number between 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """`unsure`: the LLM is asked from this probability up to the classifier's threshold. `without_answer`: what to do if an answer
    has no text (a content filter, a model that thinks longer than the answer may be): stop, or keep the classifier's opinion."""

    classifier: Classifier
    endpoint: Endpoint
    unsure: float
    without_answer: Literal["stop", "keep"]

    def check(self) -> None:
        self.classifier.check()
        self.endpoint.check()
        if not 0 <= self.unsure < max(self.classifier.dsat_threshold, self.classifier.sat_threshold):
            raise UserError(f"mine.unsure={self.unsure}: expected at least 0 and below the classifier's thresholds.")

    def check_packages(self) -> None:
        self.classifier.check_packages()

    def key(self) -> dict[str, Any]:
        settings = {"unsure": self.unsure, "without_answer": self.without_answer}
        return self.classifier.key() | {"miner": "cascade", "judge": [VERSION, self.endpoint.key()]} | settings

    @property
    def counts(self) -> Counter[str]:
        return self.classifier.counts

    def classify(self, conversations: list[list[Message]]) -> list[dict[int, Opinion]]:
        """Like the classifier's; raises UserError if the LLM's answers can't be obtained."""
        classified = self.classifier.classify(conversations)
        uncertain = [
            (number, i)
            for number, opinions in enumerate(classified)
            for i, opinion in opinions.items()
            if opinion.label == "none" and 1 - opinion.confidence >= self.unsure
        ]
        questions = [question(rules.turn(conversations[number], i)) for number, i in uncertain]
        with Progress("asking about uncertain turns", total=len(questions), unit="turns") as bar:
            answers = self.endpoint.ask(questions, bar.advance, temperature=0.0, max_tokens=MAX_TOKENS, advice="")
        num_empty = answers.count(None)
        if num_empty and self.without_answer == "stop":
            most = limit(self.endpoint.fields, self.endpoint.setting, f"{MAX_TOKENS} tokens")
            raise UserError(
                f"{num_empty} of {len(answers)} questions got an answer without a text from {self.endpoint.url} (a filter, or a "
                f"model that thinks for longer than {most}). The other answers are kept. The same command asks these "
                "questions again; mine.without_answer=keep uses the classifier instead; another mine.endpoint.model may "
                "answer."
            )
        for (number, i), answer in zip(uncertain, answers, strict=True):
            opinion = parse_answer(without_thoughts(answer)) if answer is not None else None
            self.counts["replies that the LLM was asked about"] += 1
            if opinion is not None:
                classified[number][i] = opinion
            else:
                self.counts[f"LLM answers {'without a text' if answer is None else 'that could not be read'}"] += 1
        return classified


def question(turn: Turn) -> list[Message]:
    """The prompt for the LLM: the rubric and the three texts, shortened in the middle."""
    request, reply, said = (
        text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} […] {text[-LONGEST // 2 :]}" for text in turn
    )
    text = f"{RUBRIC}\n\n<request>\n{request}\n</request>\n<reply>\n{reply}\n</reply>\n<next_turn>\n{said}\n</next_turn>"
    return [{"role": "user", "content": text}]


def parse_answer(answer: str) -> Opinion | None:
    """The opinion in the LLM's line; None if it can't be parsed. A label alone gets the confidence 0.5, the lowest that makes
    sense."""
    text = re.sub(r"\b(label|category|confidence)\b\s*[:=]?", " ", answer.strip().lower())
    text = re.sub(r"(\d)\s*/\s*(?=\d)", r"\1/", re.sub(r"(\d),(?=\d)", r"\1.", re.sub(r"(\d) +%", r"\1%", text)))
    label, *rest = [word.rstrip(".") for word in re.split(r"[^\w/%.-]+", text) if word.strip("._")] or [""]
    if label not in ("dsat", "sat", "both", "none"):
        return None
    category, confidence = (rest[0] if rest else "-"), 0.5
    if (share := to_share(category)) is not None:
        category, confidence = "-", share
    elif len(rest) > 1:
        if (share := to_share(rest[1])) is None:
            return None
        confidence = share
    elif category != "-" and category not in CATEGORIES:
        return None
    return Opinion(
        label=cast(Label, label),
        category=category if label in ("dsat", "both") and category in CATEGORIES else None,
        confidence=confidence,
        detector="judge",
        evidence=answer.strip()[:200] or None,
    )


def to_share(word: str) -> float | None:
    """0.9, 90% or 9/10 as a number between 0 and 1; None for anything else."""
    hit = re.fullmatch(r"(\d+|\d*\.\d+)(?:(%)|/(\d+))?", word)
    if hit is None or hit[3] == "0":
        return None
    value = float(hit[1]) / (100 if hit[2] else float(hit[3] or 1))
    return value if 0 <= value <= 1 else None
