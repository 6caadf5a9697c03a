"""The iterations: the file to read first.

    feedback log -> [warm start] -> (sample -> pairs -> reference pass -> DPO -> next policy -> evaluation) x iterations

Every arrow is a stage of the store: finished ones are found, missing ones computed, so a killed run goes on where it was. The
method only makes pairs; nothing below knows which one it is.
"""

from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from drift.alarms import Alarms
from drift.console import say
from drift.engine.ask import Ask
from drift.errors import UserError
from drift.evaluation import replies
from drift.evaluation.stage import evaluation_stage
from drift.examples.filters import Filters
from drift.identity import identity
from drift.intake.feedback import feedback_stage
from drift.intake.intake import Intake
from drift.intake.leakage import remove_leaked
from drift.journal import Journal
from drift.method.warmup import Warmup
from drift.model.architecture import check_architecture
from drift.model.chat import check_template
from drift.model.policy import Policy, load_tokenizer, policy_at
from drift.model.weights import check_weights
from drift.parts import Evaluation, Method, Objective
from drift.randomness import order
from drift.records import Example, Prompt, Record, digest, read_examples, read_records, write_jsonl
from drift.score.plan import layout_module, plan, tokenize
from drift.score.reference import reference_stage
from drift.store import Stage, Store
from drift.train.fit import train_stage
from drift.train.frozen import num_frozen
from drift.train.settings import Train

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run. `seed`: samples and training order (the log and the prompts have `data.seed`). `examples_per_iteration`: how many
    pairs every method trains on in an iteration (null: those of one pass over the records). `previous_share`: share of them taken
    from the iteration before. `warmup_epochs`: over the DSAT -> SAT pairs first (0: no warm start). `reference`: the iteration's
    starting policy, or always the start model. `refresh_log`: every later iteration learns from what users say to the policy
    that it starts from, instead of from the start model's log; only a simulated deployment can ask them. `evaluation`: by name; the
    first one's headline is the run's. `num_perplexity_prompts`: of how many prompts of each the fresh reply is scored under the
    start model."""

    method: Method
    model: Any
    data: Any
    intake: Intake
    mine: Any
    sampler: Any
    train: Train
    objective: dict[str, Objective]
    evaluation: dict[str, Evaluation]
    num_perplexity_prompts: int
    logger: Any
    alarms: Alarms
    filters: Filters
    store: Store
    seed: int
    iterations: int
    examples_per_iteration: int | None
    previous_share: float
    warmup_epochs: int
    reference: Literal["iteration", "start"]
    refresh_log: bool

    def check(self) -> None:
        if self.iterations < 0 or self.warmup_epochs < 0 or (self.examples_per_iteration or 1) < 1:
            raise UserError("Expected iterations >= 0, warmup_epochs >= 0 and examples_per_iteration >= 1 (or null).")
        if not self.evaluation or self.num_perplexity_prompts < 0:
            raise UserError("Expected num_perplexity_prompts >= 0 and an evaluation or more: evaluation=[deployment].")
        if not 0 <= self.previous_share < 1:
            raise UserError(f"previous_share={self.previous_share}: expected at least 0 and below 1.")
        if self.refresh_log and not self.data.uses_policy:
            raise UserError("refresh_log=true asks users again: expected data=deployment. A log that is there can't be asked.")


HeldOut = dict[str, list[Record]]  # by evaluation


def execute(run: Run, journal: Journal) -> None:
    """Runs all stages, and keeps `journal` (the run folder's readable state) up to date."""
    quantization = run.train.adapter.quantization if run.train.adapter else "none"
    directory = run.model.directory()
    check_weights(directory)
    start = policy_at(directory, quantization, run.model.template)
    tokenizer = load_tokenizer(start)
    check_model(run, start, tokenizer)
    Loop(run=run, journal=journal, start=start, tokenizer=tokenizer).iterate()


def check_model(run: Run, start: Policy, tokenizer: Any) -> None:
    """What the start model's files say against this run, before any weight is loaded."""
    if start.is_adapter and run.train.adapter is None:
        raise UserError(f"model.path={start.directory} is an adapter, so train=full can't go on from it. Use train=lora.")
    check_template(tokenizer, start.tokenizer, system=run.data.uses_policy and run.data.system is not None)
    longest = max(run.train.max_tokens, run.sampler.max_prompt_tokens + run.sampler.max_new_tokens)
    check_architecture(start.base, tokenizer, longest=longest)
    layout_module(run.train.layout).check_model(start.base, longest)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A run's stages. `start`: the policy that everything begins with."""

    run: Run
    journal: Journal
    start: Policy
    tokenizer: Any

    def iterate(self) -> None:
        """All of them, in order."""
        run, policy, previous = self.run, self.start, list[Example]()
        records, held_out = self.learnt_from(1, policy)
        self.announce(records, held_out)
        self.evaluate(0, "start", policy, held_out)
        if run.warmup_epochs:
            policy, _ = self.improve(0, Warmup(), None, run.warmup_epochs, policy, records, [])
            self.evaluate(0, "warm start", policy, held_out)
        for iteration in range(1, run.iterations + 1):
            if run.refresh_log and iteration > 1:
                records, _ = self.learnt_from(iteration, policy)
            wanted, epochs = run.examples_per_iteration, run.train.epochs
            policy, previous = self.improve(iteration, run.method, wanted, epochs, policy, records, previous)
            self.evaluate(iteration, f"iteration {iteration}", policy, held_out)

    def ask(self, policy: Policy, seed: int, purpose: str, iteration: int) -> Ask:
        """What a method, a data set or an evaluation gets."""
        run, noise = self.run, {"seed": seed, "purpose": purpose, "iteration": iteration}
        return Ask(sampler=run.sampler, compute=run.train.compute, store=run.store, start=self.start, policy=policy, **noise)

    def learnt_from(self, iteration: int, policy: Policy) -> tuple[list[Record], HeldOut]:
        """The log that this iteration and those after it learn from: (for training, held out)."""
        run = self.run
        ask = self.ask(policy, run.data.seed if run.data.uses_policy else run.seed, "log", 0)  # a log that is there asks nothing
        feedback = feedback_stage(ask, run.data, run.intake, run.mine, self.tokenizer)
        self.journal.feedback(iteration, feedback)
        records, held_out, asked = read_records(feedback.path / "records.jsonl"), HeldOut(), list[Prompt]()
        for name, evaluation in run.evaluation.items():
            records, held_out[name] = evaluation.separate(records)
            asked += [*evaluation.prompts(), *(record.prompt for record in held_out[name])]
        if asked:
            records, leaks = remove_leaked(records, asked, run.intake.leakage)
            self.journal.leaks(leaks)
        return records, held_out

    def announce(self, records: list[Record], held_out: HeldOut) -> None:
        """What the metrics mean and what the evaluations can show at all, before anything is computed for them."""
        meanings, outlook = {}, []
        for name, evaluation in self.run.evaluation.items():
            meanings[name] = dict(evaluation.meanings) | (replies.MEANINGS if evaluation.samples else {})
            outlook += evaluation.outlook(records, held_out[name])
        self.journal.expects(meanings, outlook)

    def improve(
        self, iteration: int, method: Method, wanted: int | None, epochs: int, policy: Policy, records: list[Record],
        previous: list[Example],
    ) -> tuple[Policy, list[Example]]:  # fmt: skip
        """One turn: examples, reference pass, training. Returns the next policy and the examples that were new."""
        run, journal = self.run, self.journal
        made = self.examples_stage(iteration, method, wanted, policy, records)
        new = read_examples(made.path / "examples.jsonl")
        journal.sampled(iteration, made, new, records)
        kept = round(len(new) * run.previous_share) if previous else 0
        examples = new[: len(new) - kept] + previous[:kept]
        planned = plan(
            tokenize(self.tokenizer, examples),
            layout=run.train.layout,
            examples_per_step=run.train.examples_per_step,
            tokens_per_batch=run.train.tokens_per_batch,
            example_order=run.train.example_order,
            seed=run.seed,
            mismatched=any(objective.mismatched for objective in run.objective.values()),
        )
        reference = policy if run.reference == "iteration" else self.start
        layers = num_frozen(run.train, policy, planned)
        scored = reference_stage(run.store, run.train.compute, reference, planned, layers=layers)
        watch = partial(journal.watch, iteration)
        train = run.train.at(iteration)
        trained = train_stage(run.store, train, run.objective, policy, reference, planned, scored, epochs=epochs, watch=watch)
        journal.trained(iteration, made, trained, examples)
        return policy_at(trained.path / "policy", template=policy.template), new

    def examples_stage(self, iteration: int, method: Method, wanted: int | None, policy: Policy, records: list[Record]) -> Stage:
        """`examples.jsonl`: the first usable ones of the method, records taken in an order of this seed and iteration."""
        run = self.run

        def work(progress: Path, output: Path) -> dict[str, Any]:
            keys = [record.key for record in records]
            shuffled = [records[i] for i in order(run.seed, "records", iteration, keys)]
            with self.ask(policy, run.seed, "pairs", iteration) as ask:
                examples, counts = run.filters.take(method.make_examples(shuffled, ask), wanted, self.tokenizer)
            if not examples:
                raise UserError(
                    f"The method made no usable example out of {len(records)} records ({counts}). "
                    f"Expected records with the feedback that it learns from: {method.needs}."
                )
            if wanted is not None and len(examples) < wanted:
                say(
                    f"  Note: {len(examples)} examples of the {wanted} asked for: the records are used up (method.rounds: more "
                    f"passes). Runs that train on more are no comparison; examples_per_iteration={len(examples)} would match them."
                )
            write_jsonl(output / "examples.jsonl", examples)
            return {"counts": counts, "drawn": ask.drawn}

        if wanted is None:
            method = one_pass(method)
        settings = {
            "method": identity(method), "filters": identity(run.filters), "wanted": wanted, "seed": run.seed,
            "iteration": iteration, "sampler": identity(run.sampler),
        }  # fmt: skip
        inputs = {"policy": policy.fingerprint, "records": digest([asdict(record) for record in records])}
        return run.store.run("examples", work, version=VERSION, settings=settings, inputs=inputs)

    def evaluate(self, iteration: int, name: str, policy: Policy, held_out: HeldOut) -> None:
        """Every evaluation of a policy, one after another."""
        results = {}
        for label, evaluation in self.run.evaluation.items():
            ask = self.ask(policy, evaluation.noise_seed, "evaluation", 0)
            results[label] = evaluation_stage(ask, evaluation, held_out[label], self.run.num_perplexity_prompts)
        self.journal.scored(iteration, name, results)


def one_pass(method: Any) -> Any:
    """Without a number of pairs to reach, the records are gone through once, whatever `rounds` allows."""
    return replace(method, rounds=1) if any(item.name == "rounds" for item in fields(method)) else method
