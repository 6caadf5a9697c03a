"""An evaluation of one policy as a stage of the store, with the metrics that every evaluation has on its fresh replies."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from drift.engine.ask import Ask
from drift.evaluation import replies
from drift.identity import identity, named
from drift.parts import Evaluation, OwnSampler, Sampler
from drift.records import Record, write_json, write_jsonl
from drift.store import Stage

VERSION = 5


def sampler_of(evaluation: Evaluation, sampler: Sampler) -> Sampler:
    """The sampler of an evaluation's fresh replies, given the run's."""
    return evaluation.sampler(sampler) if isinstance(evaluation, OwnSampler) else sampler


def longest_sampled(sampler: Sampler, evaluations: Iterable[Evaluation]) -> int:
    """The most tokens that a prompt and its reply can have, drawn by the run's sampler or for an evaluation."""
    samplers = [sampler, *(sampler_of(evaluation, sampler) for evaluation in evaluations)]
    return max(one.max_prompt_tokens + one.max_new_tokens for one in samplers)


def evaluation_stage(ask: Ask, evaluation: Evaluation, held_out: Sequence[Record], num_perplexity_prompts: int) -> Stage:
    """Makes `scores.json`, and `replies.jsonl` if the evaluation has rows for it."""

    def work(progress: Path, output: Path) -> dict[str, Any]:
        with ask:
            measured = evaluation.measure(ask, held_out)
            assert evaluation.samples or not ask.drawn["replies"], "an evaluation whose `samples` is false draws replies"
            metrics = measured.metrics
            if measured.drawn:
                metrics = metrics | replies.measure(ask, measured.drawn, num_perplexity_prompts)
        scores = {"headline": measured.headline, "metrics": metrics, "conversations": dict(measured.conversations)}
        write_json(output / "scores.json", scores)
        if measured.rows:
            write_jsonl(output / "replies.jsonl", measured.rows)
        return ask.drawn | {"metrics": len(metrics)}

    sampled = [identity(ask.sampler), num_perplexity_prompts] if evaluation.samples else None
    key = named(evaluation) | {"key": evaluation.key(held_out), "noise_seed": evaluation.noise_seed}
    settings = {"evaluation": key, "sampled": sampled, "dtype": [ask.compute.lightning, ask.compute.dtype]}
    inputs = {"policy": ask.policy.fingerprint, "start": ask.start.fingerprint}
    return ask.store.run("evaluate", work, version=VERSION, settings=settings, inputs=inputs)
