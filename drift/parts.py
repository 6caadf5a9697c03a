"""What every exchangeable part must offer: the second file to read, after loop.py.

A part is a frozen, keyword-only dataclass in a file of its own, named by the `_target_` of a yaml file; its constructor is
its schema and has no defaults. It may have `check()`, which raises `UserError` (drift/errors.py) for settings that make no
sense and is called before anything is loaded. Its key in the store is its class, its code and its settings
(drift/identity.py); a part whose results do not depend on all of its settings says so by `key() -> dict`. No part imports
torch when its module is imported."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from drift.records import Example, Logprob, Message, Prompt, Record, Reply


class Item(Protocol):
    """What fresh replies are asked for: a record, a task, anything that has an identity. Its noise hangs on `key` and on nothing
    else."""

    @property
    def key(self) -> str: ...


T = TypeVar("T", bound=Item)


class Ask(Protocol):
    """What a method, a data set or an evaluation may ask of models: bound to a policy, a seed, a purpose and an iteration. All
    work is done in fixed groups, each a finished stage of the store, so that nothing is computed or paid for twice; one model
    is open at a time."""

    def draw(
        self, items: Sequence[T], prompts_of: Callable[[T], Sequence[Prompt]], *, first_sample: int, label: str
    ) -> Iterator[tuple[T, list[Reply]]]:
        """Every item, in order, with a fresh reply to each of its prompts (all items have equally many). Lazy: a group is drawn
        when its first item is asked for. The j-th reply has the noise of sample `first_sample + j`. An item with a prompt
        longer than `sampler.max_prompt_tokens`, or one that the chat template can't render, is passed over and counted.
        `label`: of the progress bar."""
        ...

    def logprobs(
        self, texts: Sequence[tuple[Prompt, str, bool]], *, of: Literal["policy", "start"], label: str
    ) -> list[Logprob | None]:
        """Log-probability of each reply, given as (prompt, reply, ended), under the policy or the run's start model, by the path
        that training uses. None: the chat template can't render it, or it has no token."""
        ...

    def judge(
        self, judge: "Judge", drawn: Iterable[tuple[Record, list[Reply]]], *, label: str
    ) -> Iterator[tuple[Record, list[Reply], list[float]]]:
        """What was drawn, in order, with a score for each reply; higher is better. Lazy, a group of `judge.group_size` items at
        a time."""
        ...


class Method(Protocol):
    """Makes examples out of records and of what it asks. `paired`: every example has a good and a bad reply. `needs`: the records
    that it learns from, in words that end the error where it found none ("DSAT"). `judge`: the one that it asks, or None."""

    paired: ClassVar[bool]
    needs: ClassVar[str]

    @property
    def judge(self) -> "Judge | None": ...

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example | None]:
        """Candidates, lazily: whoever takes them stops when there are enough, so ask for replies as late as possible. None is a
        tie (of a judge, say): it is counted and makes no example. `records` are those of this iteration, in an order of its
        seed. Unusable candidates (empty, copied, cut off, …) are taken out by drift/examples/filters.py, not here."""
        ...


class Judge(Protocol):
    """Scores replies. Its yaml begins with `# @package method.judge`, which is where a method has it. `needs_truth`: it can judge
    records with a known truth only (`data.knows_truth`). `group_size`: how many items it gets at once, which is also what a kill
    can cost. `label`: what reports call it."""

    needs_truth: ClassVar[bool]

    @property
    def group_size(self) -> int: ...

    @property
    def label(self) -> str: ...

    def open(self) -> AbstractContextManager[Callable[[Sequence[tuple[Record, Sequence[str]]]], list[list[float]]]]:
        """Loads what it needs; yields a function from groups of (record, replies) to a list of scores for each, one a reply,
        finite and higher for better; frees it. Scores may not depend on neighbours. Raises `UserError` where an answer could
        not be had (budget, refusal)."""
        ...


class Sampler(Protocol):
    """Draws replies from a policy. The settings that every sampler has: `max_new_tokens`, `max_prompt_tokens`, and `group_size`,
    the number of replies asked for at once, which is also what a kill can cost."""

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def max_prompt_tokens(self) -> int: ...

    @property
    def group_size(self) -> int: ...

    def open(self, policy: Any) -> AbstractContextManager[Callable[..., list[Reply | None]]]:
        """Loads the policy, a `drift.model.policy.Policy`; yields `generate(prompts, noise, tick) -> replies`; frees it.
        `noise`: a `drift.randomness.Noise` each, which makes uniforms or a seed. `tick(share)` is called with the share of
        the group that was just done. None: the prompt is too long, or the chat template can't render it."""
        ...


class Objective(Protocol):
    """A loss: one file with one pure function. `weight`: of it in the sum. `paired`: it compares a good and a bad reply of each
    example (examples without are refused before anything runs). `mismatched`: it wants `step.kl`, which costs a pass over
    replies to other prompts."""

    paired: ClassVar[bool]
    mismatched: ClassVar[bool]

    @property
    def weight(self) -> float: ...

    def loss(self, batch: Any, step: Any) -> tuple[Any, Mapping[str, Any]]:
        """(scalar tensor: the sum over the batch's examples, before the weight; metrics: name -> sum over the batch's examples,
        drawn in report and W&B under that name). `batch`: `drift.objective.batch.Batch`; `step`:
        `drift.objective.batch.Step`, totals of the optimiser step."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an evaluation found of a policy. `metrics`: name -> `drift.evaluation.metric.metric(...)`; `headline`: the one that
    is compared. `drawn`: the fresh replies, if it drew any, of items with a `key` and a `prompt`: length, word pairs, missing
    ends, copies and perplexity are measured on them (drift/evaluation/replies.py), and alarms watch these. `rows`: of
    replies.jsonl. `conversations`: item -> conversation, where items of one conversation count as one in intervals."""

    headline: str
    metrics: dict[str, Any]
    drawn: Sequence[tuple[Any, list[Reply]]]
    rows: Sequence[Mapping[str, Any]]
    conversations: Mapping[str, str]


class Evaluation(Protocol):
    """Measures a policy. A run has a list of them; the first one's headline is the run's. `meanings`: metric -> a sentence for
    the report. `noise_seed`: of its fresh replies, the same for every method and policy. `samples`: whether it draws any, so that
    its scores depend on the sampler."""

    meanings: ClassVar[Mapping[str, str]]

    @property
    def noise_seed(self) -> int: ...

    @property
    def samples(self) -> bool: ...

    def prompts(self) -> Sequence[Prompt]:
        """The prompts that it asks whatever the log holds: training records that share them are leaks, and are removed."""
        ...

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out for this evaluation). With several evaluations, of what the ones before it left."""
        ...

    def outlook(self, records: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
        """Sentences about what its numbers can show, said before anything is computed."""
        ...

    def key(self, held_out: Sequence[Record]) -> dict[str, Any]:
        """What its scores depend on besides its code, the policy, the start model and, where it samples, the sampler."""
        ...

    def measure(self, ask: Ask, held_out: Sequence[Record]) -> Measured:
        """Asks what it needs to; called for the start model and for every policy after it."""
        ...


class Source(Protocol):
    """A data set. One that asks users of a policy (`uses_policy`) is a `Simulation`; a log is read by `parse`, row by row, and
    goes through drift/intake. `gives_records`: its records are finished, so that no miner reads them and the intake only chooses
    among them. `knows_truth`: its records have a `truth` that a verifier can check."""

    uses_policy: ClassVar[bool]
    gives_records: ClassVar[bool]
    knows_truth: ClassVar[bool]

    def key(self) -> dict[str, Any]: ...


class Task(Item, Protocol):
    """One thing that a simulated user asks for. `truth`: what a verifier needs to check a reply."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def truth(self) -> dict[str, str]: ...


class Simulation(Source, Protocol):
    """A source with `uses_policy` true: users who are asked anew. `second_tries`: the assistant answers complaints too. `system`:
    the system message that it sends, or None."""

    @property
    def seed(self) -> int: ...

    @property
    def second_tries(self) -> bool: ...

    @property
    def system(self) -> str | None: ...

    def collect(self, ask: Ask) -> Any:
        """What users say to the policy: a `drift.intake.collected.Collected`."""
        ...

    def tasks(self, split: Literal["train", "validation", "test"], count: int) -> Sequence[Task]:
        """`count` different tasks of a split; no two splits share a topic. Raises `UserError` where it has fewer."""
        ...

    def tasks_key(self) -> dict[str, Any]:
        """What the tasks of any split depend on."""
        ...


class Miner(Protocol):
    """Classifies what users thought of replies from their next turns; see drift/intake/conversations.py for an `Opinion`."""

    def classify(self, conversations: list[list[Message]]) -> list[dict[int, Any]]:
        """For each conversation, an opinion of every reply that a user turn follows, by the reply's index. Raises `UserError`
        where an answer could not be had."""
        ...

    def key(self) -> dict[str, Any]: ...


class Logger(Protocol):
    """Gets what happens while it happens. `begin` is called once a run; the object that it returns is told the rest."""

    def begin(self, folder: Path, title: Mapping[str, str], notes: Mapping[str, str]) -> Any: ...
