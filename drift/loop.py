"""The iterations: the file to read first.

    feedback log -> [warm start] -> (sample -> pairs -> reference pass -> DPO -> next policy -> evaluation) x iterations

Every arrow is a stage of the store: finished ones are found, missing ones computed, so a killed run goes on where it was. The
method only makes pairs; nothing below knows which one it is.
"""

from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from drift.alarms import Alarms
from drift.console import say
from drift.engine.ask import Ask
from drift.errors import UserError
from drift.examples.filters import Filters
from drift.identity import identity, named
from drift.intake.collected import nothing
from drift.intake.intake import Intake, contents
from drift.intake.leakage import apart
from drift.intake.usable import usable
from drift.journal import Journal
from drift.method.warmup import Warmup
from drift.model.architecture import check_architecture
from drift.model.chat import check_template
from drift.model.policy import Policy, load_tokenizer, policy_at
from drift.model.weights import check_weights
from drift.randomness import order
from drift.records import Example, Record, digest, read_examples, read_records, write_jsonl
from drift.score.plan import layout_module, plan, tokenize
from drift.score.reference import reference_stage
from drift.store import Stage, Store
from drift.train.fit import train_stage
from drift.train.settings import Train

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run. `seed`: samples and training order (the log and the prompts have `data.seed`). `pairs_per_iteration`: how many
    pairs every method trains on in an iteration (null: those of one pass over the records). `previous_share`: share of them taken
    from the iteration before. `warmup_epochs`: over the DSAT -> SAT pairs first (0: no warm start). `reference`: the iteration's
    starting policy, or always the start model. `refresh_log`: every later iteration learns from what users say to the policy
    that it starts from, instead of from the start model's log; only a simulated deployment can ask them."""

    method: Any
    model: Any
    data: Any
    intake: Intake
    mine: Any
    sampler: Any
    train: Train
    objective: dict[str, Any]
    evaluation: Any
    logger: Any
    alarms: Alarms
    filters: Filters
    store: Store
    seed: int
    iterations: int
    pairs_per_iteration: int | None
    previous_share: float
    warmup_epochs: int
    reference: Literal["iteration", "start"]
    refresh_log: bool

    def check(self) -> None:
        if self.iterations < 0 or self.warmup_epochs < 0 or (self.pairs_per_iteration or 1) < 1:
            raise UserError("Expected iterations >= 0, warmup_epochs >= 0 and pairs_per_iteration >= 1 (or null).")
        if not 0 <= self.previous_share < 1:
            raise UserError(f"previous_share={self.previous_share}: expected at least 0 and below 1.")
        if self.refresh_log and not self.data.uses_policy:
            raise UserError("refresh_log=true asks users again: expected data=deployment. A log that is there can't be asked.")


def execute(run: Run, journal: Journal) -> None:
    """Runs all stages, and keeps `journal` (the run folder's readable state) up to date."""
    quantization = run.train.adapter.quantization if run.train.adapter else "none"
    directory = run.model.directory()
    check_weights(directory)
    start = policy_at(directory, quantization, run.model.template)
    tokenizer = load_tokenizer(start)
    check_model(run, start, tokenizer)
    records, held_out = learnt_from(run, journal, 1, start, tokenizer)
    journal.expects({evaluation_name(run): run.evaluation.meanings}, run.evaluation.outlook(records, held_out))
    score(run, journal, 0, "start", start, start, held_out)
    policy = start
    if run.warmup_epochs:
        policy, _ = improve(run, journal, 0, Warmup(), run.warmup_epochs, policy, start, records, [], tokenizer)
        score(run, journal, 0, "warm start", policy, start, held_out)
    previous: list[Example] = []
    for iteration in range(1, run.iterations + 1):
        if run.refresh_log and iteration > 1:
            records, _ = learnt_from(run, journal, iteration, policy, tokenizer)
        policy, previous = improve(
            run, journal, iteration, run.method, run.train.epochs, policy, start, records, previous, tokenizer
        )
        score(run, journal, iteration, f"iteration {iteration}", policy, start, held_out)


def check_model(run: Run, start: Policy, tokenizer: Any) -> None:
    """What the start model's files say against this run, before any weight is loaded."""
    if start.is_adapter and run.train.adapter is None:
        raise UserError(f"model.path={start.directory} is an adapter, so train=full can't go on from it. Use train=lora.")
    check_template(tokenizer, start.tokenizer, system=getattr(run.data, "system", None) is not None)
    longest = max(run.train.max_tokens, run.sampler.max_prompt_tokens + run.sampler.max_new_tokens)
    check_architecture(start.base, tokenizer, longest=longest)
    layout_module(run.train.rows).check_model(start.base, longest)


def learnt_from(run: Run, journal: Journal, iteration: int, policy: Policy, tokenizer: Any) -> tuple[list[Record], list[Record]]:
    """The log that this iteration and those after it learn from: (for training, held out)."""
    feedback = feedback_stage(run, policy, tokenizer)
    journal.feedback(iteration, feedback)
    records, held_out = run.evaluation.separate(read_records(feedback.path / "records.jsonl"))
    if held_out:
        records, leaks = apart(records, [record.prompt for record in held_out], run.intake.leakage)
        journal.leaks(leaks)
    return records, held_out


def feedback_stage(run: Run, policy: Policy, tokenizer: Any) -> Stage:
    """`records.jsonl`, and `quarantine.jsonl` with the reason for every row that is not used."""

    def work(progress: Path, output: Path) -> dict[str, Any]:
        if run.data.uses_policy:
            with Ask(sampler=run.sampler, policy=policy, store=run.store, seed=run.data.seed, purpose="log", iteration=0) as ask:
                collected = run.data.collect(ask)
        else:
            collected = run.intake.collect(run.data, run.mine, log)
        limits = {"max_tokens": run.train.max_tokens, "max_new_tokens": run.sampler.max_new_tokens}
        records, unusable = usable(collected.records, tokenizer, **limits)
        aside = [*collected.set_aside, *unusable]
        write_jsonl(output / "records.jsonl", records)
        write_jsonl(output / "quarantine.jsonl", aside)
        labels = Counter(record.label for record in records)
        if not records:
            raise UserError(nothing(collected.facts, aside))
        facts = {
            "DSAT": labels["dsat"],
            "SAT": labels["sat"],
            "DSAT then satisfied": sum(r.label == "dsat" and r.satisfied for r in records),
        }
        reasons = Counter(f"set aside: {row['reason']}" for row in aside)
        return {"counts": collected.facts | facts | dict(reasons), "set_aside": aside[:20]}

    sampler = identity(run.sampler) if run.data.uses_policy else {"max_new_tokens": run.sampler.max_new_tokens}
    log = [] if run.data.uses_policy else contents(run.data)  # what is in the key is what is read, if the log grows meanwhile
    data = run.data.key() if run.data.uses_policy else run.intake.key(run.data, run.mine, log)
    parts = [named(part) for part in ([run.data] if run.data.uses_policy else [run.data, run.intake, run.mine])]
    settings = {"data": data, "parts": parts, "sampler": sampler, "max_tokens": run.train.max_tokens}
    return run.store.run("feedback", work, version=VERSION, settings=settings, inputs={"policy": policy.fingerprint})


def improve(
    run: Run, journal: Journal, iteration: int, method: Any, epochs: int, policy: Policy, start: Policy,
    records: list[Record], previous: list[Example], tokenizer: Any,
) -> tuple[Policy, list[Example]]:  # fmt: skip
    """One turn: examples, reference pass, training. Returns the next policy and the examples that were new."""
    made = examples_stage(run, iteration, method, policy, records, tokenizer)
    new = read_examples(made.path / "examples.jsonl")
    journal.sampled(iteration, made, new, records)
    kept = round(len(new) * run.previous_share) if previous else 0
    examples = new[: len(new) - kept] + previous[:kept]
    rows = plan(
        tokenize(tokenizer, examples),
        layout=run.train.rows,
        pairs_per_step=run.train.pairs_per_step,
        tokens_per_batch=run.train.tokens_per_batch,
        pair_order=run.train.pair_order,
        seed=run.seed,
        mismatched=any(objective.mismatched for objective in run.objective.values()),
    )
    reference = policy if run.reference == "iteration" else start
    scored = reference_stage(run.store, run.train, reference, policy, rows)
    watch = partial(journal.watch, iteration)
    train = run.train.at(iteration)
    trained = train_stage(run.store, train, run.objective, policy, reference, rows, scored, epochs=epochs, watch=watch)
    journal.trained(iteration, made, trained, examples)
    return policy_at(trained.path / "policy", template=policy.template), new


def examples_stage(run: Run, iteration: int, method: Any, policy: Policy, records: list[Record], tokenizer: Any) -> Stage:
    """`examples.jsonl`: the first usable ones of the method, records taken in an order of this seed and iteration."""

    def work(progress: Path, output: Path) -> dict[str, Any]:
        keys = [record.key for record in records]
        shuffled = [records[i] for i in order(run.seed, "records", iteration, keys)]
        with Ask(sampler=run.sampler, policy=policy, store=run.store, seed=run.seed, purpose="pairs", iteration=iteration) as ask:
            examples, counts = run.filters.take(method.make_examples(shuffled, ask), wanted, tokenizer)
        if not examples:
            raise UserError(
                f"The method made no usable example out of {len(records)} records ({counts}). "
                "Expected records with the feedback that it learns from: "
                + ("DSAT with a later reply that satisfied, or warmup_epochs=0." if warmup else "DSAT or SAT.")
            )
        if wanted is not None and len(examples) < wanted:
            say(
                f"  Note: {len(examples)} examples of the {wanted} asked for: the records are used up "
                "(method.rounds: more passes). Runs that train on more are no comparison; "
                f"pairs_per_iteration={len(examples)} would match them."
            )
        write_jsonl(output / "examples.jsonl", examples)
        return {"counts": counts, "drawn": ask.drawn}

    warmup = isinstance(method, Warmup)
    wanted = None if warmup else run.pairs_per_iteration
    if wanted is None:
        method = one_pass(method)
    settings = {
        "method": identity(method), "filters": identity(run.filters), "wanted": wanted, "seed": run.seed, "iteration": iteration,
        "sampler": identity(run.sampler),
    }  # fmt: skip
    inputs = {"policy": policy.fingerprint, "records": digest([asdict(record) for record in records])}
    return run.store.run("examples", work, version=VERSION, settings=settings, inputs=inputs)


def one_pass(method: Any) -> Any:
    """Without a number of pairs to reach, the records are gone through once, whatever `rounds` allows."""
    return replace(method, rounds=1) if any(item.name == "rounds" for item in fields(method)) else method


def score(run: Run, journal: Journal, iteration: int, name: str, policy: Policy, start: Policy, held_out: list[Record]) -> None:
    stage = run.evaluation.stage(run.store, run.sampler, run.train, policy, start, held_out)
    journal.scored(iteration, name, {evaluation_name(run): stage})


def evaluation_name(run: Run) -> str:
    return type(run.evaluation).__name__.lower()
