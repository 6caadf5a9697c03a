"""The iterations: the file to read first.

    feedback -> [warm start] -> (sample -> examples -> reference pass -> training -> next policy -> evaluations) x iterations

Every arrow is a stage of the store: finished stages are reused and missing ones computed, so a killed run resumes where it was.
The method only makes examples; the code below does not depend on which method it is.
"""

from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from drift.alarms import Alarms
from drift.data.simulation import Simulation
from drift.engine.ask import Ask
from drift.engine.same_policy import same_policy_stage
from drift.errors import UserError
from drift.evaluation import replies
from drift.evaluation.stage import evaluation_stage, sampler_of
from drift.examples.filters import Filters, need_enough, need_feedback
from drift.identity import identity
from drift.intake.feedback import feedback_stage
from drift.intake.intake import Intake
from drift.intake.leakage import remove_leaked
from drift.journal import Journal
from drift.judge.agreement import agreement_stages
from drift.method.warmup import Warmup
from drift.model.policy import Policy, policy_at
from drift.model.weights import check_weights
from drift.parts import Evaluation, Method, Objective, Sampler
from drift.randomness import order
from drift.records import Example, Prompt, Record, digest, read_examples, read_records, write_jsonl
from drift.score.plan import make_plan, tokenize
from drift.score.reference import reference_stage
from drift.start import open_start
from drift.store import Stage, Store
from drift.train.batch_size import with_number
from drift.train.disk import check_run
from drift.train.fit import train_stage
from drift.train.frozen import num_frozen
from drift.train.settings import Train

VERSION = 4


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run. `num_agreement_records`: labelled records about which a judge that costs nothing is asked, to show how far it agrees
    with the users. `seed` is for samples and training order (the log and the prompts have `data.seed`). `examples_per_iteration`:
    examples that every method trains on (null: those of one pass over the records). `previous_share`: the share of them taken from
    the previous iteration. `warmup_epochs`: epochs over the DSAT -> SAT pairs before the first iteration (0: no warm start).
    `reference`: the policy that the iteration starts from, or always the start model. `refresh_log`: later iterations learn from
    feedback on the policy that they start from, instead of from the start model's log (simulated deployment only). `evaluation`: by
    name; the first one's headline is the run's. `num_perplexity_prompts`: prompts of each evaluation whose fresh reply gets its
    perplexity under the start model. `plan`: print the plan only. `devices`: GPUs, or CPU processes, that share the work."""

    method: Method
    model: Any
    data: Any
    intake: Intake
    mine: Any
    sampler: Any
    train: Train
    objective: dict[str, Objective]
    num_agreement_records: int
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
    plan: bool
    devices: int

    def check(self) -> None:
        examples = self.examples_per_iteration
        if min(self.iterations, self.warmup_epochs) < 0 or self.devices < 1 or (examples is not None and examples < 1):
            raise UserError("Expected iterations >= 0, warmup_epochs >= 0, devices >= 1, examples_per_iteration >= 1 (or null).")
        if min(self.num_perplexity_prompts, self.num_agreement_records) < 0:
            raise UserError("Expected num_agreement_records >= 0 and num_perplexity_prompts >= 0.")
        if not 0 <= self.previous_share < 1:
            raise UserError(f"previous_share={self.previous_share}: expected at least 0 and below 1.")
        self.train.check_devices(self.devices)


HeldOut = dict[str, list[Record]]  # evaluation -> its held-out records


def execute(run: Run, journal: Journal) -> None:
    """Runs all stages, and keeps `journal` (the readable state in the run folder) up to date."""
    start, tokenizer = open_start(run)
    run.store.note(start.directory, start.base)
    check_run(run, start)
    Loop(run=with_number(run, start), journal=journal, start=start, tokenizer=tokenizer).iterate()


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A run's stages. `start`: the start model."""

    run: Run
    journal: Journal
    start: Policy
    tokenizer: Any

    def iterate(self) -> None:
        """All stages, in order."""
        run, policy, previous = self.run, self.start, list[Example]()
        if run.data.uses_policy:
            self.compare_samples(0, policy, {})
        records, held_out = self.collect_feedback(1, policy)
        self.announce(records, held_out)
        if not run.data.uses_policy:  # a mistake in a log is found before any weight is loaded
            self.compare_samples(0, policy, {})
        self.compare_judges(records)
        self.evaluate(0, "start", policy, held_out)
        if run.warmup_epochs:
            policy, _ = self.improve(0, Warmup(), None, run.warmup_epochs, policy, records, [])
            self.evaluate(0, "warm start", policy, held_out)
        for iteration in range(1, run.iterations + 1):
            if run.refresh_log and iteration > 1:
                records, _ = self.collect_feedback(iteration, policy)
            num_examples, epochs = run.examples_per_iteration, run.train.epochs
            policy, previous = self.improve(iteration, run.method, num_examples, epochs, policy, records, previous)
            self.evaluate(iteration, f"iteration {iteration}", policy, held_out)

    def ask(self, policy: Policy, seed: int, purpose: str, iteration: int, sampler: Sampler | None = None) -> Ask:
        """The service through which a method, a data set or an evaluation asks models; `sampler`: instead of the run's."""
        run, noise = self.run, {"seed": seed, "purpose": purpose, "iteration": iteration}
        return Ask(
            sampler=sampler or run.sampler, compute=run.train.compute, store=run.store, start=self.start, policy=policy, **noise
        )

    def collect_feedback(self, iteration: int, policy: Policy) -> tuple[list[Record], HeldOut]:
        """The records that this iteration and the later ones train on, and the held-out ones."""
        run = self.run
        data, ask = self.simulation(iteration, policy) if run.data.uses_policy else (run.data, self.ask(policy, run.seed, "log", 0))
        feedback = feedback_stage(ask, data, run.intake, run.mine, self.tokenizer)
        self.journal.feedback(iteration, feedback, [] if run.data.uses_policy else run.data.files())
        records, held_out, asked = read_records(feedback.path / "records.jsonl"), HeldOut(), list[Prompt]()
        for name, evaluation in run.evaluation.items():
            records, held_out[name] = evaluation.separate(records)
            asked += [*evaluation.prompts(), *(record.prompt for record in held_out[name])]
        if asked:
            records, leaks = remove_leaked(records, asked, run.intake.leakage)
            self.journal.leaks(leaks)
        return records, held_out

    def simulation(self, iteration: int, policy: Policy) -> tuple[Simulation, Ask]:
        """The simulated users, and the assistant that they talk to: at first the deployed one, later the policy."""
        data = self.run.data.at(iteration)
        if (directory := data.deployed.directory()) is not None:
            check_weights(directory)
            policy = policy_at(directory, self.start.quantization, self.start.template)
            self.run.store.note(policy.directory, policy.base)
        return data, self.ask(policy, data.seed, "log", 0, data.deployed.sampler(self.run.sampler))

    def announce(self, records: list[Record], held_out: HeldOut) -> None:
        """Says what the metrics mean and what the evaluations can show at all, before anything is computed for them."""
        learning = [(self.run.method, self.run.iterations), (Warmup(), self.run.warmup_epochs)]
        need_feedback([method for method, times in learning if times], records)
        meanings, outlook = {}, []
        for name, evaluation in self.run.evaluation.items():
            meanings[name] = dict(evaluation.meanings) | (replies.MEANINGS if evaluation.samples else {})
            outlook += evaluation.outlook(records, held_out[name])
        self.journal.outlook(meanings, outlook)

    def compare_judges(self, records: list[Record]) -> None:
        """Measures how far the run's judges agree with the users of its log."""
        run, ask = self.run, self.ask(self.start, self.run.seed, "agreement", 0)
        judges = {"method.judge": run.method.judge, "filters.judge": run.filters.judge}
        for place, stage in agreement_stages(ask, judges, records, run.num_agreement_records):
            self.journal.agreed(place, stage)

    def improve(
        self, iteration: int, method: Method, num_examples: int | None, epochs: int, policy: Policy, records: list[Record],
        previous: list[Example],
    ) -> tuple[Policy, list[Example]]:  # fmt: skip
        """One iteration: examples, reference pass, training. Returns the next policy and the new examples."""
        run, journal = self.run, self.journal
        made = self.examples_stage(iteration, method, num_examples, policy, records)
        new = read_examples(made.path / "examples.jsonl")
        journal.sampled(iteration, made, new, records)
        num_old = round(len(new) * run.previous_share) if previous else 0
        examples = new[: len(new) - num_old] + previous[:num_old]
        plan = make_plan(
            tokenize(self.tokenizer, examples), layout=run.train.layout, examples_per_step=run.train.examples_per_step,
            tokens_per_batch=run.train.compute.tokens_per_batch, example_order=run.train.example_order, seed=run.seed,
            longest_mismatched=run.train.max_tokens if any(one.mismatched for one in run.objective.values()) else None,
        )  # fmt: skip
        reference = policy if run.reference == "iteration" else self.start
        scored = reference_stage(run.store, run.train.compute, reference, plan, layers=num_frozen(run.train, policy, plan))
        on_step = partial(journal.log_steps, iteration)
        train = run.train.at(iteration)
        trained = train_stage(run.store, train, run.objective, policy, reference, plan, scored, epochs=epochs, on_step=on_step)
        journal.trained(iteration, made, trained, examples)
        after = policy_at(trained.path / "policy", template=policy.template)
        self.compare_samples(iteration, after, {"the start model": self.start, "the policy before it": policy})
        return after, new

    def compare_samples(self, iteration: int, policy: Policy, others: dict[str, Policy]) -> None:
        """Makes sure that the sampler's replies come from this policy, before the first of them is used."""
        if iteration < self.run.iterations or any(evaluation.samples for evaluation in self.run.evaluation.values()):
            name = f"Iteration {iteration}" if iteration else "Warm start" if others else "Start model"
            self.journal.compared(name, same_policy_stage(self.ask(policy, 0, "same policy", iteration), others))

    def examples_stage(
        self, iteration: int, method: Method, num_examples: int | None, policy: Policy, records: list[Record]
    ) -> Stage:
        """`examples.jsonl`: the method's first usable examples; the order of the records depends on seed and iteration."""
        run = self.run

        def work(progress: Path, output: Path) -> dict[str, Any]:
            shuffled = [records[i] for i in order(run.seed, "records", iteration, [record.key for record in records])]
            with self.ask(policy, run.seed, "pairs", iteration) as ask:
                rules = {"tokenizer": self.tokenizer, "max_tokens": run.train.max_tokens, "ask": ask, "records": records}
                examples, counts = run.filters.take(method.make_examples(shuffled, ask), num_examples, **rules)
            counts["unjudged"] = ask.drawn["unjudged"]  # the method's and the filter's
            need_enough(counts, made=len(examples), wanted=num_examples, num_records=len(records), needs=method.needs)
            write_jsonl(output / "examples.jsonl", examples)
            return {"counts": counts, "drawn": ask.drawn}

        method = method if num_examples is not None else one_pass(method)
        settings = {
            "method": identity(method), "filters": identity(run.filters), "wanted": num_examples, "seed": run.seed,
            "iteration": iteration, "sampler": identity(run.sampler), "max_tokens": run.train.max_tokens,
        }  # fmt: skip
        inputs = {"policy": policy.fingerprint, "records": digest([asdict(record) for record in records])}
        return run.store.run("examples", work, version=VERSION, settings=settings, inputs=inputs)

    def evaluate(self, iteration: int, name: str, policy: Policy, held_out: HeldOut) -> None:
        """Runs every evaluation on a policy, one after another."""
        results = {}
        for label, evaluation in self.run.evaluation.items():
            ask = self.ask(policy, evaluation.noise_seed, "evaluation", 0, sampler_of(evaluation, self.run.sampler))
            results[label] = evaluation_stage(ask, evaluation, held_out[label], self.run.num_perplexity_prompts)
        self.journal.scored(iteration, name, results)


def one_pass(method: Any) -> Any:
    """The method with a single pass over the records, whatever its `rounds`: there is no number of examples to reach."""
    return replace(method, rounds=1) if any(item.name == "rounds" for item in fields(method)) else method
