"""WildBench v2 (arXiv 2406.04770): 1,024 real user tasks with a checklist each; what its two measures share.

The measures are WB-Score (wildbench_score.py) and WB-Reward (wildbench_reward.py). The official questions to the judge can be named
by path (`eval_template.score.v2.md` and `eval_template.pairwise.v2.md` of the benchmark's repository); those that ship here are
ours, with the same placeholders and the same form of answer.

A row: {"session_id": "ae00…", "conversation_input": [{"role": "user", "content": "…"}], "checklist": ["Does the reply …?"],
"primary_tag": "Planning", "secondary_tags": ["Reasoning"], …}"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from drift.benchmark.data import hub_rows, need_fields
from drift.errors import UserError
from drift.records import Message

LICENCE = "the code is Apache-2.0; the tasks, from WildChat, are under the terms of the data set allenai/WildBench"
PLACEHOLDER = r"\{\$(\w+)\}"  # in the questions to the judge
CUT = "... (truncated)"  # the end of a text that WildBench has shortened for the judge
GROUPS = {
    "Creative Tasks": (0.5, ("Creative Writing", "Editing", "Brainstorming", "Role playing", "Others")),
    "Planning & Reasoning": (1.25, ("Planning", "Reasoning")),
    "Math & Data Analysis": (1.0, ("Math", "Data Analysis")),
    "Information/Advice seeking": (0.75, ("Information seeking", "Advice seeking")),
    "Coding & Debugging": (1.25, ("Coding & Debugging",)),
}  # group -> its weight, its tags
GROUP_OF = {tag: group for group, (_, tags) in GROUPS.items() for tag in tags}
FIELDS = {
    "session_id": str, "conversation_input": list, "checklist": list, "primary_tag": str, "secondary_tags": list,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WildBenchTask:
    """`groups`: the task groups in which it counts, those of its primary and its secondary tags."""

    key: str
    prompt: tuple[Message, ...]
    checklist: tuple[str, ...]
    groups: tuple[str, ...]
    follow_ups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A judged reply: a row of the official score files. `key`: the session id."""

    key: str
    grade: float
    reply: str


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A judged pair: a row of the official pairwise files. `points`: of the model's reply, from 1 (much better) to -1. The texts
    are those that the judge saw."""

    key: str
    points: float
    reply: str
    baseline: str


def load_template(path: str | None, ours: str, names: Sequence[str]) -> str:
    """The question to the judge; refused if it lacks one of these placeholders."""
    try:
        text = (Path(path).expanduser() if path else Path(__file__).with_name("prompts") / ours).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"benchmark.template={path} can't be read: {error}. Expected a text file, or null for ours ({ours})."
        ) from error
    for name in names:
        if f"{{${name}}}" not in text:
            raise UserError(
                f"benchmark.template={path}: the placeholder {{${name}}} is missing. Ours is {ours} in drift/benchmark/prompts."
            )
    return text


@cache
def load_tasks(path: str, config: str | None, split: str | None) -> tuple[WildBenchTask, ...]:
    """Every task of the data set, in its order."""
    return tuple(as_task(row, where) for where, row in hub_rows(path, config, split, "benchmark"))


def as_task(row: Any, where: str) -> WildBenchTask:
    need_fields(row, FIELDS, where)
    if unknown := sorted({row["primary_tag"], *row["secondary_tags"]} - set(GROUP_OF)):
        raise UserError(f"{where}: the tag {unknown[0]} is none of WildBench's: {', '.join(sorted(GROUP_OF))}.")
    prompt = tuple({"role": m["role"], "content": m["content"]} for m in row["conversation_input"])
    if not prompt or prompt[-1]["role"] != "user":
        raise UserError(f"{where}: conversation_input: expected messages that end with the user's.")
    groups = tuple(sorted({GROUP_OF[tag] for tag in (row["primary_tag"], *row["secondary_tags"])}))
    return WildBenchTask(key=row["session_id"], prompt=prompt, checklist=tuple(row["checklist"]), groups=groups)


def shown(task: WildBenchTask) -> dict[str, str]:
    """What the judge sees of a task: the values of the placeholders that both questions share."""
    names = {"user": "USER", "assistant": "ASSISTANT"}
    history = "".join(f"{names[m['role']]}: {m['content']}\n\n" for m in task.prompt[:-1] if m["role"] in names)
    checklist = "".join(f"- {item}\n" for item in task.checklist)
    return {"history": history, "user_query": task.prompt[-1]["content"], "checklist": checklist}


def json_answer(text: str) -> dict[str, Any]:
    """The JSON object that is the whole answer, alone or in one code block; an empty one if there is none."""
    text = re.sub(r"\A```(?:json)?\s*\n(.*)\n```\Z", r"\1", text.strip(), flags=re.DOTALL)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def counts(reply: str) -> bool:
    """Whether a reply counts in task groups and mean length: it is neither empty nor cut off."""
    return bool(reply) and not reply.endswith(CUT)


def macro(groups: Mapping[str, float]) -> float:
    """The weighted mean over task groups. In a panel without tasks of a group, over the others."""
    if not groups:
        return 0.0
    return sum(value * GROUPS[name][0] for name, value in groups.items()) / sum(GROUPS[name][0] for name in groups)


def contributions(values: Mapping[str, float], groups: Mapping[str, Collection[str]]) -> dict[str, float]:
    """Item -> its contribution to the weighted mean over task groups, of which it is the mean: that mean plus the weighted
    deviation of the item from the mean of each of its groups."""
    members = {name: [value for key, value in values.items() if name in groups[key]] for name in GROUPS}
    means = {name: sum(found) / len(found) for name, found in members.items() if found}
    scale = len(values) / (sum(GROUPS[name][0] for name in means) or 1.0)
    shares = {name: GROUPS[name][0] * scale / len(members[name]) for name in means}
    whole = macro(means)
    return {key: whole + sum((value - means[name]) * shares[name] for name in groups[key]) for key, value in values.items()}
