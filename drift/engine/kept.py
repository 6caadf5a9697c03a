"""The answers of servers on disk: one file for each question, with what it has cost. It is written when the answer arrives."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.engine.answer import Answer, are_logprobs, are_nats
from drift.records import write_json


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known about a question. `answer`: None if there is none yet, or none that can be used. `dollars`, `tries`: what it
    has cost so far, and in how many requests."""

    answer: Answer | None
    dollars: float
    tries: int


def read(file: Path, request: dict[str, Any]) -> Entry:
    """The entry of a question, checked like any file that others may have touched; an empty one if it can't be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    entry = found if isinstance(found, dict) else {}
    dollars, tries = entry.get("dollars"), entry.get("tries")
    return Entry(
        answer=_answer(entry) if entry.get("request") == request else None,
        dollars=float(dollars) if isinstance(dollars, (int, float)) and 0 < dollars < math.inf else 0.0,
        tries=tries if type(tries) is int and tries > 0 else 1,
    )


def write(file: Path, request: dict[str, Any], entry: Entry) -> None:
    answer = entry.answer
    more: dict[str, Any] = {}
    if answer is not None and answer.top_logprobs is not None:
        more |= {"top_logprobs": dict(answer.top_logprobs)}
    if answer is not None and answer.ended is not None:
        more |= {"ended": answer.ended, "nats": answer.nats and list(answer.nats)}
    plain = {"request": request, "answer": answer and answer.text, "dollars": entry.dollars, "tries": entry.tries}
    write_json(file, plain | more)


def _answer(entry: Mapping[str, Any]) -> Answer | None:
    text, top = entry.get("answer"), entry.get("top_logprobs")
    if not isinstance(text, str) or not (top is None or are_logprobs(top)):
        return None
    ended, nats = entry.get("ended"), entry.get("nats")
    if isinstance(ended, bool) and (nats is None or are_nats(nats)):
        return Answer(text=text, top_logprobs=top, ended=ended, nats=nats)
    return Answer(text=text, top_logprobs=top) if text.strip() or top else None
