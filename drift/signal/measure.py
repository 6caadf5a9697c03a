"""The measurement: from runs that differ in their method to the numbers of signal.json. Studies call `measure` too.

    feedback -> fresh replies -> examples of every method -> gradients of all replies -> numbers

Each arrow but the last is made of stages of the store. Feedback and examples are those of `drift run` with the same settings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drift.console import say
from drift.errors import UserError
from drift.loop import Loop, Run
from drift.records import Example, Record, read_examples
from drift.signal.gradients import Gradients
from drift.signal.known import directions, summary
from drift.signal.method import best, of_method
from drift.signal.replies import FEWEST, fresh_replies
from drift.start import open_start
from drift.store import Stage
from drift.train.batch_size import with_number

VERSION = 1  # of signal.json
BEST = "(good over bad)"


class Counts:
    """The journal of a measurement: says what is in the log, and keeps nothing."""

    def feedback(self, iteration: int, stage: Stage, log: Sequence[Path]) -> None:
        say("Feedback: " + ", ".join(f"{value} {name}" for name, value in stage.facts["counts"].items()))

    def leaks(self, rows: Sequence[Any]) -> None:
        if rows:
            say(f"  {len(rows)} records have a prompt of the evaluation: they are left out, as in training.")


def measure(runs: Mapping[str, Run], *, num_prompts: int, num_replies: int, num_splits: int) -> dict[str, Any]:
    """The content of signal.json (docs/signal.md). `runs`: name -> a run; they may differ in method, objective and how they would
    train. `num_prompts`, `num_replies`: prompts, and fresh replies to each, that directions are estimated on; `num_splits`: random
    splits of these prompts. In "methods", a method without a measurement has "lacks", the sentence that says why."""
    for name, value, least in (("prompts", num_prompts, FEWEST), ("replies", num_replies, 2), ("splits", num_splits, 2)):
        if value < least:
            raise UserError(f"--{name} {value}: expected at least {least}.")
    run = next(iter(runs.values()))
    assert all(common(one) == common(run) for one in runs.values()), "runs of one measurement share log, model and adapter"
    start, tokenizer = open_start(run)
    runs = {name: with_number(one, start) for name, one in runs.items()}
    run = runs[next(iter(runs))]
    with Gradients(run.store, run.train, start) as gradients:  # refuses settings that it can't measure, before anything is drawn
        loop = Loop(run=run, journal=Counts(), start=start, tokenizer=tokenizer)  # type: ignore[arg-type]
        records, _ = loop.collect_feedback(1, start)
        ask = loop.ask(start, run.seed, "signal", 0)
        drawn = fresh_replies(ask, records, num_prompts, num_replies)
        made = {name: examples_of(replace(loop, run=one), records) for name, one in runs.items()}
        known = directions(ask, gradients, records, drawn, num_splits, run.data.knows_truth)
        rows = {BEST: best(known, tokenizer, BEST)} if known.truth else {}
        for name, found in made.items():
            rows[name] = {"lacks": found} if isinstance(found, str) else of_method(known, runs[name], found, tokenizer, name)
    return {"version": VERSION} | summary(known, num_splits) | {"methods": rows}


def common(run: Run) -> tuple[Any, ...]:
    """What the runs of a measurement have in common."""
    train = run.train
    computed = train.formats, train.layout, train.tokens_per_batch, train.max_tokens
    return run.data, run.model, run.sampler, run.seed, train.adapter, *computed


def examples_of(loop: Loop, records: list[Record]) -> list[Example] | str:
    """The examples of a run's first iteration; or the sentence that says why there are none."""
    run = loop.run
    try:
        made = loop.examples_stage(1, run.method, run.examples_per_iteration, loop.start, records)
    except UserError as error:
        return str(error)
    return read_examples(made.path / "examples.jsonl")
