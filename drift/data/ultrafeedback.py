"""The raw UltraFeedback (openbmb/UltraFeedback, MIT): four completions of a prompt, each with ratings and a critique by GPT-4.

One row: {"source": "...", "instruction": "...", "completions": [{"model": "...", "response": "...", "annotations": {"helpfulness":
{"Rating": "4", ...}, ...}, "critique": "...", "overall_score": 7.5, "fine-grained_score": 4.25}, ...], ...}. Ratings are text.

This is reconstructed, not users' own feedback: the completion with the lowest mean rating is the disliked reply, its critique the
feedback, and the completion with the highest mean rating the liked one. `overall_score` is not used, because in early copies it is
10 instead of 1 for 2,628 completions. Rows whose lowest and highest ratings are equal are set aside. The `custom_system_prompt` of
a completion is left out: it told the model which principle to follow, and differs between the completions of a row. Source of the
schema: the data set's card."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from drift.intake.conversations import Conversation, Opinion
from drift.intake.files import find_files
from drift.intake.rows import BadRow, parse_rows
from drift.intake.turns import quote, to_text
from drift.records import digest

RATING = re.compile("[1-5]")
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


@dataclass(frozen=True, kw_only=True)
class UltraFeedback:
    """`path`: the hub data set, or a directory or file with a copy of it."""

    path: str

    name = "ultrafeedback (reconstructed feedback)"
    version = 2
    knows_truth = False
    uses_policy = False
    gives_records = False

    def check(self) -> None:
        self.files()

    def files(self) -> list[Path]:
        return find_files(self.path, "*.jsonl")

    def conversations(self, file: Path) -> Iterator[Any]:
        return parse_rows(file, parse, option="ultrafeedback", path=self.path, fields={}, ignore=())


def parse(row: dict[str, Any], file: str, number: int) -> Conversation:
    """One row; raises BadRow."""
    instruction = to_text(row.get("instruction"), "instruction")
    completions = row.get("completions")
    if not isinstance(completions, list) or len(completions) < 2:
        raise BadRow("completions", "a list of two or more", quote(completions))
    rated = []
    for i, completion in enumerate(completions):
        if not isinstance(completion, dict):
            raise BadRow(f"completions[{i}]", "an object", quote(completion))
        rated.append((_rating(completion, f"completions[{i}]"), completion, i))
    worst, best = min(rated, key=lambda item: item[0]), max(rated, key=lambda item: item[0])
    if worst[0] == best[0]:
        raise BadRow("completions", "ratings that differ", f"{worst[0]:g} for all")
    replies = [to_text(item[1].get("response"), f"completions[{item[2]}].response") for item in (worst, best)]
    critique = worst[1].get("critique")
    has_critique = isinstance(critique, str) and critique.strip()
    evidence = f"mean rating {worst[0]:g}, the best one has {best[0]:g}"
    return Conversation(
        id=f"{file}:{number}",
        thread=digest([instruction])[:16],
        messages=[{"role": "user", "content": instruction}, {"role": "assistant", "content": replies[0]}],
        opinions={1: Opinion(label="dsat", category=None, confidence=1.0, detector="GPT-4", evidence=evidence)},
        revised={1: replies[1]},
        flags=(),
        file=file,
        row=number,
        comments={1: to_text(critique, f"completions[{worst[2]}].critique")} if has_critique else {},
    )


def _rating(completion: dict[str, Any], field: str) -> float:
    """The mean of the ratings that are numbers (some are "N/A")."""
    annotations = completion.get("annotations")
    if not isinstance(annotations, dict):
        raise BadRow(f"{field}.annotations", "an object", quote(annotations))
    ratings = []
    for aspect in ASPECTS:
        entry = annotations.get(aspect)
        rating = entry.get("Rating") if isinstance(entry, dict) else None
        if isinstance(rating, str) and RATING.fullmatch(rating.strip()):
            ratings.append(int(rating))
    if not ratings:
        raise BadRow(f"{field}.annotations", "a rating from 1 to 5, as text, for at least one aspect", "none")
    return fmean(ratings)
