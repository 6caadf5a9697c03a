"""Whether a reply follows the instructions of its prompt: what IFEval and IFBench have in common.

A reply is checked against every instruction of its prompt twice: as it is (strict), and, if that fails, without asterisks and
without its first and last line (loose). Prompt-level accuracy is the share of prompts whose instructions are all followed,
instruction-level accuracy the share of all instructions. The checkers are those of the package `if-verifiable`, which are the
published ones; text up to "</think>" is left out before they see it. A reply that breaks a checker does not follow the instruction.
"""

import importlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drift.evaluation import nltk_data
from drift.evaluation.metric import metric
from drift.records import Prompt, Reply

MEANINGS = {
    "prompt-level strict": "share of prompts whose instructions are all followed, from 0 to 1; the reply is checked as it is",
    "instruction-level strict": "share of all instructions that are followed, from 0 to 1",
    "average strict": "mean of the two, which many model cards give",
    "prompt-level loose": "the same as prompt-level strict, also for the reply without asterisks, first or last line",
    "instruction-level loose": "the same for all instructions",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A prompt with its instructions, by the names of their checkers, and the arguments of each."""

    key: str
    text: str
    instructions: tuple[str, ...]
    arguments: tuple[dict[str, Any], ...]

    @property
    def prompt(self) -> Prompt:
        return [{"role": "user", "content": self.text}]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a reply follows an instruction."""

    strict: bool
    loose: bool


def verdicts(checkers: str, task: Task, text: str) -> list[Verdict]:
    """One for each of the task's instructions. `checkers`: the module with the benchmark's registry."""
    with nltk_data.in_place():
        evaluate = importlib.import_module("if_verifiable.common").evaluate_instructions
        registry = importlib.import_module(checkers).INSTRUCTION_DICT
        found = []
        for name, arguments in zip(task.instructions, task.arguments, strict=True):
            random.seed(0)  # three prompts have arguments that a checker replaces by random ones (the letter "#")
            try:
                results, _ = evaluate(text, [name], [arguments], task.text, registry)
            except Exception:  # the published checkers assume some text: one takes the first letter of a word that may be empty
                results = []
            assert name in registry and len(results) <= 1
            found += [Verdict(strict=one.strict_pass, loose=one.loose_pass) for one in results]
            if not results:  # broken, or nothing but white space or thoughts
                found.append(Verdict(strict=False, loose=False))
    return found


def metrics(found: Mapping[str, Sequence[Verdict]]) -> dict[str, Any]:
    """The metrics in MEANINGS, from the verdicts of each prompt. At instruction level a prompt's value is its number of followed
    instructions over the mean number of instructions, so that the mean over prompts is the share of all instructions."""
    per_prompt = sum(map(len, found.values())) / len(found)
    result = {}
    for mode in ("strict", "loose"):
        followed = {task: [getattr(one, mode) for one in verdicts] for task, verdicts in found.items()}
        result[f"prompt-level {mode}"] = metric({task: float(all(one)) for task, one in followed.items()})
        result[f"instruction-level {mode}"] = metric({task: sum(one) / per_prompt for task, one in followed.items()})
        if mode == "strict":
            result["average strict"] = metric({task: (all(one) + sum(one) / per_prompt) / 2 for task, one in followed.items()})
    return result


def as_row(task: Task, reply: Reply, found: Sequence[Verdict]) -> dict[str, Any]:
    """A line of replies.jsonl."""
    followed = [
        {"instruction": name, "strict": one.strict, "loose": one.loose} for name, one in zip(task.instructions, found, strict=True)
    ]
    return {"prompt": task.prompt, "reply": reply.text, "ended": reply.ended, "key": task.key, "instructions": followed}
