"""AlpacaEval 2 (arXiv 2404.04475): 805 instructions, each reply compared with GPT-4 Turbo's by a judge that names the better one.

The judge answers with one token, m or M. Its preference is the share of M in the probability of both, so that a close decision
counts as close; of a judge without log-probabilities, the token that it wrote counts. The order of the replies is random, but the
same for every model. The figures equal those of the package alpaca-eval 0.6.6. Only its question to the judge is taken from its
wheel; none of its code is run, because importing it reads .env files and changes scikit-learn for the whole process.

An instruction: {"dataset": "helpful_base", "instruction": "What are …?", "output": "…", "generator": "gpt4_1106_preview"}"""

import hashlib
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from drift.benchmark import length_control
from drift.benchmark.data import hub_file, need_fields, packaged, wheel_files
from drift.benchmark.judged import UNREAD, UNREAD_MEANS, Answer, Judged, Question, contents, fill, unread
from drift.errors import UserError
from drift.evaluation.metric import metric
from drift.records import Message

TASKS = "tasks/alpaca_eval/data/alpaca_eval_gpt4_baseline.json"  # in the package eval_framework
WHEEL = "alpaca-eval==0.6.6"
TEMPLATE = "alpaca_eval/evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"  # in the wheel
SHA256 = "784227e6dc2832fc08c43d2c8ea3a308e7523780187a1aaad2f85e30bac85f62"
GO_WITHOUT = "or name the file: benchmark.gamed=FILE; benchmark.gamed=null goes without the length-controlled win rate"
FIRST, SECOND = "m", "M"  # how the question names the two replies


@dataclass(frozen=True, kw_only=True)
class AlpacaTask:
    """`index`: its place among the 805. `instruction`, and the `baseline`'s reply to it."""

    key: str
    index: int
    prompt: tuple[Message, ...]
    instruction: str
    baseline: str
    follow_ups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """The package's figures, in percent. A preference of 1 is a loss, 2 a win, 1.5 a draw. `discrete`: with rounded preferences."""

    win_rate: float
    standard_error: float
    discrete: float
    wins: int
    losses: int
    draws: int
    total: int


@dataclass(frozen=True, kw_only=True)
class AlpacaEval:
    """`gamed`: the file df_gamed.csv of the hub data set tatsu-lab/alpaca_eval, which the length-controlled win rate needs: its
    path; `hub` for the local Hugging Face cache; null: without length-controlled win rate. `cache_dir`: of the question to the
    judge; null means $XDG_CACHE_HOME/drift or ~/.cache/drift."""

    gamed: str | None
    cache_dir: str | None

    title: ClassVar[str] = "AlpacaEval 2"
    licence: ClassVar[str] = "the code is Apache-2.0, the instructions and the baseline's replies are CC-BY-NC-4.0"
    published_judge: ClassVar[str] = "gpt-4-1106-preview"
    judge_settings: ClassVar[dict[str, Any]] = {"temperature": 1, "max_tokens": 1, "logprobs": True, "top_logprobs": 5}
    meanings: ClassVar[dict[str, str]] = {
        "LC win rate": "length-controlled win rate against GPT-4 Turbo, in percent: what the win rate would be if the replies were "
        "as long as the baseline's",
        "win rate": "win rate against GPT-4 Turbo, in percent; close decisions count in part",
        "discrete win rate": "win rate in percent, with whole wins only",
        "reply length": "mean number of characters of a reply (GPT-4 Turbo's: 2,049)",
        UNREAD: UNREAD_MEANS,
    }

    @property
    def headline(self) -> str:
        return "win rate" if self.gamed is None else "LC win rate"

    def check(self) -> None:
        load_template(self.cache_dir)
        self.tasks()
        if self.gamed is not None:
            length_control.load(self._gamed())

    def key(self) -> dict[str, Any]:
        gamed = None if self.gamed is None else hashlib.sha256(self._gamed().read_bytes()).hexdigest()
        return {"tasks": contents(self.tasks()), "template": SHA256, "gamed": gamed}

    def tasks(self) -> Sequence[AlpacaTask]:
        return load_tasks()

    def questions(self, task: AlpacaTask, replies: Sequence[str]) -> list[Question]:
        """A reply that equals the baseline's is a draw, without a question."""
        swapped = is_swapped(task.instruction)
        if replies[0] == task.baseline:
            return [Question(key=task.key, part="preference", messages=[], swapped=swapped, settled=1.5)]
        shown = (replies[0], task.baseline) if swapped else (task.baseline, replies[0])
        values = {"instruction": task.instruction, "output_1": shown[0], "output_2": shown[1]}
        messages = [{"role": m["role"], "content": fill(m["content"], values)} for m in load_template(self.cache_dir)]
        return [Question(key=task.key, part="preference", messages=messages, swapped=swapped)]

    def read(self, question: Question, answer: Answer) -> float | None:
        """The preference, from 1 (the baseline's reply is better) to 2."""
        if answer.top_logprobs is not None:
            first, second = (math.exp(answer.top_logprobs.get(token, -math.inf)) for token in (FIRST, SECOND))
        else:
            first, second = (float(answer.text.strip() == token) for token in (FIRST, SECOND))
        if not first + second:
            return None
        preference = 2 - first / (first + second)
        return 3 - preference if question.swapped else preference

    def score(self, judged: Sequence[Judged]) -> dict[str, Any]:
        read = {one.task.key: one.verdicts[0] for one in judged if one.verdicts[0] is not None}
        if not read:
            raise UserError("AlpacaEval: none of the judge's answers can be read, so there is no win rate.")
        figures = summarise(list(read.values()))
        controlled = {} if self.gamed is None else {"LC win rate": metric(self._controlled(judged), digits=1)}
        length = sum(len(one.replies[0]) for one in judged) / len(judged)
        return {
            **controlled,
            "win rate": metric({key: (value - 1) * 100 for key, value in read.items()}, value=figures.win_rate, digits=1),
            "discrete win rate": metric(None, value=figures.discrete, digits=1),
            "reply length": metric(None, value=length, digits=0),
            **unread(judged),
        }

    def facts(self, judged: Judged) -> dict[str, Any]:
        return {}

    def _controlled(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Item -> its contribution to the length-controlled win rate in percent, of which it is the mean."""
        rows = [
            length_control.Row(
                index=one.task.index, preference=one.verdicts[0], length_difference=len(one.task.baseline) - len(one.replies[0])
            )
            for one in judged
        ]
        parts = length_control.predict(rows, length_control.load(self._gamed())).contributions
        return {one.task.key: 100 * float(part) for one, part in zip(judged, parts, strict=True)}

    def _gamed(self) -> Path:
        if self.gamed == "hub":
            return hub_file("tatsu-lab/alpaca_eval", "df_gamed.csv", "benchmark.gamed=hub", GO_WITHOUT)
        return Path(self.gamed or "").expanduser()


@cache
def load_tasks() -> tuple[AlpacaTask, ...]:
    file = packaged("eval_framework", TASKS, "AlpacaEval")
    rows = json.loads(file.read_text(encoding="utf-8"))
    tasks = []
    for index, row in enumerate(rows):
        need_fields(row, {"instruction": str, "output": str}, f"{file}, row {index + 1}")
        prompt = ({"role": "user", "content": row["instruction"]},)
        tasks.append(
            AlpacaTask(key=f"{index:03}", index=index, prompt=prompt, instruction=row["instruction"], baseline=row["output"])
        )
    return tuple(tasks)


@cache
def load_template(cache_dir: str | None) -> tuple[Message, ...]:
    """The package's question to the judge, as messages."""
    folder = wheel_files(WHEEL, {TEMPLATE: SHA256}, cache_dir, setting="benchmark.cache_dir")
    text = (folder / Path(TEMPLATE).name).read_text(encoding="utf-8")
    found = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", text, flags=re.DOTALL)
    return tuple({"role": role, "content": content.strip()} for role, content in found)


def is_swapped(instruction: str) -> bool:
    """Whether the model's reply is shown before the baseline's: the package's seed and choice."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True], k=1)[0]


def summarise(preferences: Sequence[float]) -> WinRate:
    """The figures for preferences from 1 to 2 (0 is another name for a draw), at least one."""
    import numpy as np

    values = np.asarray(preferences, dtype=float)
    values = np.where(values == 0, 1.5, values) - 1
    rounded = np.where(values == 0.5, 0.5, np.round(values))
    error = float(values.std(ddof=1) / math.sqrt(len(values)) * 100) if len(values) > 1 else math.nan
    return WinRate(
        win_rate=float(values.mean() * 100),
        standard_error=error,
        discrete=float(rounded.mean() * 100),
        wins=int((values > 0.5).sum()),
        losses=int((values < 0.5).sum()),
        draws=int((values == 0.5).sum()),
        total=len(values),
    )
