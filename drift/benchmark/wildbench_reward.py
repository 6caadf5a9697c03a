"""WB-Reward: WildBench's replies, each compared with a baseline model's by a judge that sees the task's checklist.

Much better counts 1, slightly better 0.5, a tie 0, and the reverse. A slight win becomes a tie if the winner is longer by more than
`length_margin` characters. The judge sees one order only, which is random. Pairs with an empty or a shortened reply are left out of
wins and groups, but the plain reward divides by all pairs, as published. The board shows the mean over three baselines × 100."""

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from drift.benchmark.judged import UNREAD, UNREAD_MEANS, Answer, Judged, Question, contents, fill, unread
from drift.benchmark.wildbench import (
    CUT,
    GROUPS,
    LICENCE,
    PLACEHOLDER,
    Compared,
    WildBenchTask,
    contributions,
    json_answer,
    load_tasks,
    load_template,
    macro,
    shown,
)
from drift.benchmark.wildbench_files import read_replies
from drift.errors import UserError
from drift.evaluation.metric import metric
from drift.records import digest

TEMPLATE = "wildbench-reward.txt"
EMPTY = "[This model response is empty.]"  # what the judge and the official files show for an empty reply
CHOICES = {"A++": 1.0, "A+": 0.5, "A=B": 0.0, "B+": -0.5, "B++": -1.0}
NAMES = {1.0: "much better", 0.5: "slightly better", 0.0: "tie", -0.5: "slightly worse", -1.0: "much worse"}


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """The official figures. `outcomes`: one of NAMES -> number of pairs. `reward`: sum of points over `total`, which includes the
    pairs that are left out of the rest. `groups`: task group -> mean points. `macro`: their weighted mean."""

    outcomes: dict[str, int]
    reward: float
    groups: dict[str, float]
    macro: float
    total: int
    length: float


@dataclass(frozen=True, kw_only=True)
class WildBenchReward:
    """`path`, `config`, `split`, `template`: as in `WildBenchScore`. `baseline`: the baseline model's replies, an official result
    file (null is refused, with a sentence that says what to give). `length_margin`: characters (the board has 500, 1000 and
    1500); null: without length penalty. `max_words`: a longer text is shortened for the judge (published: 1000). `order_seed`: of
    the order of the replies (published: 42)."""

    path: str
    config: str | None
    split: str | None
    template: str | None
    baseline: str | None
    length_margin: int | None
    max_words: int
    order_seed: int

    title: ClassVar[str] = "WildBench (WB-Reward)"
    licence: ClassVar[str] = f"{LICENCE}; the baseline's replies are under those of its maker"
    published_judge: ClassVar[str] = "gpt-4-turbo-2024-04-09"
    judge_settings: ClassVar[dict[str, Any]] = {
        "temperature": 0, "max_tokens": 1024, "response_format": {"type": "json_object"}
    }  # fmt: skip
    headline: ClassVar[str] = "WB-Reward"
    meanings: ClassVar[dict[str, str]] = {
        "WB-Reward": "points against the baseline, averaged by task group and weighted, × 100: from -100 to 100",
        "plain reward": "points over all pairs, × 100",
        **{name: f"share of the compared replies that are judged so ({points:g} points)" for points, name in NAMES.items()},
        "left out": "number of pairs with an empty reply, or one that was shortened for the judge",
        UNREAD: UNREAD_MEANS,
    }

    def check(self) -> None:
        load_template(self.template, TEMPLATE, ("history", "user_query", "candidate_A", "candidate_B", "checklist"))
        if (self.length_margin is not None and self.length_margin < 0) or self.max_words < 1:
            raise UserError("Expected benchmark.length_margin at least 0, or null, and benchmark.max_words at least 1.")
        if self.baseline is None:
            raise UserError(
                "WB-Reward compares with the replies of another model. Give them as benchmark.baseline=FILE, an official result "
                "file like result_dirs/wild_bench_v2/gpt-4-turbo-2024-04-09.json of https://github.com/allenai/WildBench."
            )
        replies = self._baseline()
        if missing := [task.key for task in self.tasks() if task.key not in replies]:
            raise UserError(f"benchmark.baseline={self.baseline}: no reply to {len(missing)} tasks, for example {missing[0]}.")

    def key(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("length_margin", "max_words", "order_seed")}
        texts = {"template": load_template(self.template, TEMPLATE, ()), "baseline": digest(self._baseline())}
        return {"tasks": contents(self.tasks())} | texts | settings

    def tasks(self) -> Sequence[WildBenchTask]:
        return load_tasks(self.path, self.config, self.split)

    def questions(self, task: WildBenchTask, replies: Sequence[str]) -> list[Question]:
        """A pair with an empty reply is settled: it is left out."""
        pair = [shorten(text, self.max_words) for text in (replies[0], self._baseline()[task.key])]
        swapped = task.key in swapped_keys(tuple(one.key for one in self.tasks()), self.order_seed)
        if not all(text.strip() for text in pair):
            return [Question(key=task.key, part="reward", messages=[], swapped=swapped, settled=0.0)]
        first, second = pair[::-1] if swapped else pair
        values = {name: text if name == "checklist" else shorten(text, self.max_words) for name, text in shown(task).items()}
        template = load_template(self.template, TEMPLATE, ("candidate_A", "candidate_B"))
        text = fill(template, values | {"candidate_A": first, "candidate_B": second}, PLACEHOLDER)
        return [Question(key=task.key, part="reward", messages=[{"role": "user", "content": text}], swapped=swapped)]

    def read(self, question: Question, answer: Answer) -> float | None:
        """The points of the model's reply, from the field "choice" of a JSON object."""
        choice = json_answer(answer.text).get("choice")
        points = CHOICES.get(choice) if isinstance(choice, str) else None
        return points if points is None or not question.swapped else 0.0 - points

    def score(self, judged: Sequence[Judged]) -> dict[str, Any]:
        baseline = self._baseline()
        rows = [
            Compared(
                key=one.task.key,
                points=one.verdicts[0],
                reply=as_shown(one.replies[0], self.max_words),
                baseline=as_shown(baseline[one.task.key], self.max_words),
            )
            for one in judged
            if one.verdicts[0] is not None
        ]
        if not rows:
            raise UserError("WildBench: none of the judge's answers can be read, so there is no reward.")
        groups = {one.task.key: one.task.groups for one in judged}
        rewards = summarise(rows, groups, self.length_margin)
        counted = [row for row in rows if compares(row)]
        points = {row.key: penalised(row, self.length_margin) * 100 for row in counted or rows}
        if not counted:  # the published reward would be 0, a draw: a policy that says nothing loses
            points |= {row.key: -100.0 for row in rows if row.reply == EMPTY}
        compared = max(1, len(counted))
        return {
            "WB-Reward": metric(contributions(points, groups), value=rewards.macro * 100 if counted else None, digits=1),
            "plain reward": metric(None, value=rewards.reward * 100, digits=1),
            **{name: metric(None, value=rewards.outcomes[name] / compared) for name in NAMES.values()},
            "left out": metric(None, value=float(len(rows) - len(counted)), digits=0),
            **unread(judged),
        }

    def facts(self, judged: Judged) -> dict[str, Any]:
        return {}

    def _baseline(self) -> dict[str, str]:
        """Session id -> the baseline's reply."""
        assert self.baseline is not None, "refused by `check`"
        return read_replies(self.baseline)


def shorten(text: str, max_words: int) -> str:
    """The first words, split at single spaces as published, with a mark that the text was cut."""
    words = text.split(" ")
    return text if len(words) <= max_words else " ".join(words[:max_words]) + CUT


def as_shown(reply: str, max_words: int) -> str:
    """A reply as it stands in the official pairwise files."""
    return shorten(reply, max_words).strip() or EMPTY


@cache
def swapped_keys(keys: tuple[str, ...], seed: int) -> frozenset[str]:
    """The tasks whose baseline is shown first. All tasks draw in their order, so a panel has the order of the whole."""
    order = random.Random(seed)
    return frozenset(key for key in keys if order.random() >= 0.5)


def compares(row: Compared) -> bool:
    """Whether a pair counts: neither reply is empty or shortened."""
    return not any(text == EMPTY or text.endswith(CUT) for text in (row.reply, row.baseline))


def penalised(row: Compared, length_margin: int | None) -> float:
    """The points after the length penalty."""
    longer = len(row.reply) - len(row.baseline) if row.points > 0 else len(row.baseline) - len(row.reply)
    return 0.0 if abs(row.points) == 0.5 and length_margin is not None and longer > length_margin else row.points


def summarise(rows: Sequence[Compared], groups: Mapping[str, Collection[str]], length_margin: int | None) -> Rewards:
    """The official figures of one model against one baseline. `groups`: session id -> its task groups."""
    points = {row.key: penalised(row, length_margin) for row in rows if compares(row)}
    lengths = [len(row.reply) for row in rows if compares(row)]
    outcomes = Counter(NAMES[value] for value in points.values())
    by_group = {name: [value for key, value in points.items() if name in groups.get(key, ())] for name in GROUPS}
    means = {name: sum(found) / len(found) for name, found in by_group.items() if found}
    return Rewards(
        outcomes={name: outcomes[name] for name in NAMES.values()},
        reward=sum(points.values()) / len(rows) if rows else 0.0,
        groups=means,
        macro=macro(means),
        total=len(rows),
        length=sum(lengths) / len(lengths) if lengths else 0.0,
    )
