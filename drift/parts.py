"""What every exchangeable part must offer: the second file to read, after loop.py.

A part is a frozen, keyword-only dataclass in a file of its own, the `_target_` of a yaml file; its constructor is its schema and
has no defaults. Its key in the store is its class, code and settings (drift/identity.py), or those that its `key()` gives."""

# pyright: reportReturnType=false
# (contracts have a docstring in the place of a body)
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from drift.evaluation.metric import Measured
from drift.records import Example, Logprob, Message, Prompt, Record, Reply


@runtime_checkable
class Checked(Protocol):
    """A part that looks at its own settings before anything is loaded; raises `UserError` (drift/errors.py)."""

    def check(self) -> None: ...


@runtime_checkable
class Keyed(Protocol):
    """A part whose results do not depend on all of its settings."""

    def key(self) -> dict[str, Any]: ...


@runtime_checkable
class Placed(Protocol):
    """A part that is told, before `check`, where it stands in the config ("method.judge.endpoint"), for its messages."""

    def place(self, setting: str) -> None: ...


class Item(Protocol):
    """Something that fresh replies are drawn for: a record, a task. Its noise depends on `key` alone."""

    @property
    def key(self) -> str: ...


T = TypeVar("T", bound=Item)
Grade = Callable[[Sequence[tuple[Record, Sequence[Reply]]]], Sequence[Sequence[float | None]]]  # what a judge opens


class Ask(Protocol):
    """The service through which a method, a data set or an evaluation asks models, bound to a policy, a seed, a purpose and an
    iteration. Work is done in groups, each a stage of the store (nothing is paid for twice); one model is open at a time."""

    missing: int | None  # usable examples that are still to be made: little more is drawn ahead than they need; None: no bound

    def draw(
        self, items: Sequence[T], prompts_of: Callable[[T], Sequence[Prompt]], *, label: str, rounds: int = 1
    ) -> Iterator[tuple[T, list[Reply]]]:
        """Every item, in order, with a fresh reply to each of its prompts (every item has the same number); `rounds` times, with
        other replies. Lazy: a group is drawn when its first item is asked for. An item with a prompt longer than
        `sampler.max_prompt_tokens`, or one that can't be rendered, is skipped and counted. `label`: the progress bar's."""

    def logprobs(
        self, texts: Sequence[tuple[Prompt, str, bool]], *, of: Literal["policy", "start"], label: str
    ) -> list[Logprob | None]:
        """The log-probability of each reply, given as (prompt, reply, ended), under the policy or the run's start model, computed
        in the same way as in training. None: the chat template can't render the reply, or it has no token."""

    def judge(
        self, judge: "Judge", drawn: Iterable[tuple[Record, list[Reply]]], *, label: str
    ) -> Iterator[tuple[Record, list[Reply], list[float]]]:
        """The drawn items and replies, in order, with a score for each reply; higher is better. Lazy, a group of
        `judge.group_size` items at a time. An item with a reply that has no score is skipped and counted."""

    def verdicts(
        self, examiner: "Examiner", items: Sequence[tuple[Any, Sequence[str]]], *, label: str
    ) -> list[list[Mapping[str, Any]]]:
        """For each task of a benchmark with the replies to its turns, what `examiner.examine` finds. No task is left out."""


class Method(Protocol):
    """Makes examples from records and what it asks models. `paired`: each has a good and a bad reply. `hindsight`: each has a
    prompt with the user's feedback in view, too. `needs`: the feedback that it learns from, in words ("DSAT"); a log
    without a record that it `learns_from` is refused. `judge`: the judge that it asks, or None."""

    paired: ClassVar[bool]
    hindsight: ClassVar[bool]
    needs: ClassVar[str]

    @property
    def judge(self) -> "Judge | None": ...

    def learns_from(self, record: Record) -> bool: ...

    def make_examples(self, records: Sequence[Record], ask: Ask) -> Iterator[Example | None]:
        """Candidate examples, lazily: the caller stops when it has enough. None: a tie of its judge's, which is counted. `records`:
        in an order that depends on seed and iteration. drift/examples/filters.py removes candidates that are unusable."""


@runtime_checkable
class Judge(Protocol):
    """Scores replies, for a method or a filter. Its yaml begins with `# @package method.judge`. `needs_truth`: it can judge
    only records with a known truth (`data.knows_truth`). `group_size`: the number of items that it gets at once, and so the most
    work that a kill can cost. `label`: its name in reports. One that costs money has a `budget` (drift/engine/budget.py); the
    others are asked first about single replies of the log, to see whether they agree with its users."""

    needs_truth: ClassVar[bool]

    @property
    def group_size(self) -> int: ...

    @property
    def label(self) -> str: ...

    def open(self) -> AbstractContextManager["Grade"]:
        """Loads what it needs; yields a function from groups of (record, replies) to a list of scores for each, one per reply,
        finite and higher for better; frees it. A score may not depend on the other items. None: the reply can't be judged (the
        conversation is too long, the verdict can't be read). Raises `UserError` if there is no answer (budget, refusal)."""


class Examiner(Protocol):
    """Has a judge answer a benchmark's questions (drift/benchmark/judged.py). `group_size`, `budget`: as of a judge, in tasks."""

    @property
    def group_size(self) -> int: ...

    def examine(
        self, items: Sequence[tuple[Any, Sequence[str]]], *, later: Sequence[tuple[Any, Sequence[str]]]
    ) -> list[list[Mapping[str, Any]]]:
        """For each task and each of its questions, the verdict and the answer that it was read from, as plain data. `later`: the
        tasks of the groups that follow, for the estimate of the cost. Raises `UserError` if an answer is missing."""


class Sampler(Protocol):
    """Draws replies from a policy. The settings that every sampler has: `max_new_tokens`, `max_prompt_tokens`, and `group_size`,
    the number of replies drawn at once, and so the most work that a kill can cost. Optional: sampler/contracts.py."""

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def max_prompt_tokens(self) -> int: ...

    @property
    def group_size(self) -> int: ...

    def open(self, policy: Any) -> AbstractContextManager[Callable[..., list[Reply | None]]]:
        """Loads the policy, a `drift.model.policy.Policy`; yields `generate(prompts, noise, tick) -> replies`; frees it.
        `noise`: a `drift.randomness.Noise` per prompt, which makes uniforms or a seed. `tick(share)` is called with the share of
        the group that was just done. None: the prompt is too long, or the chat template can't render it."""


class Objective(Protocol):
    """A loss: one file with one pure function. `weight`: its weight in the sum. `paired`: it compares a good and a bad reply of
    each example; `hindsight`: it needs `batch.hindsight` (methods whose examples lack these are refused before anything runs).
    `mismatched`: it needs `step.kl`, which costs a pass over replies to other prompts."""

    paired: ClassVar[bool]
    mismatched: ClassVar[bool]
    hindsight: ClassVar[bool]

    @property
    def weight(self) -> float: ...

    def loss(self, batch: Any, step: Any) -> tuple[Any, Mapping[str, Any]]:
        """(scalar tensor: the sum over the batch's examples, before the weight; metrics: name -> sum over the batch's examples,
        plotted under that name). `batch`, `step` (totals of the optimiser step): drift/objective/batch.py."""


class Evaluation(Protocol):
    """Measures a policy. A run has a list of them; the first one's headline is the run's. `meanings`: metric -> a sentence for
    the report. `noise_seed`: the seed of its fresh replies, the same for every method and policy. `samples`: whether it draws
    fresh replies, so that its scores depend on the sampler."""

    @property
    def meanings(self) -> Mapping[str, str]: ...

    @property
    def noise_seed(self) -> int: ...

    @property
    def samples(self) -> bool: ...

    def prompts(self) -> Sequence[Prompt]:
        """The prompts that it asks whatever is in the log: training records that share them are leaks, and are removed."""

    def separate(self, records: list[Record]) -> tuple[list[Record], list[Record]]:
        """(for training, held out for this evaluation). With several evaluations, each splits what the one before it left."""

    def outlook(self, records: Sequence[Record], held_out: Sequence[Record]) -> list[str]:
        """Sentences about what its numbers can show, printed before anything is computed."""

    def key(self, held_out: Sequence[Record]) -> dict[str, Any]:
        """What its scores depend on besides its code, the policy, the start model and, where it samples, the sampler."""

    def measure(self, ask: Ask, held_out: Sequence[Record]) -> Measured:
        """Asks the model and measures; called for the start model and for every policy after it."""


@runtime_checkable
class OwnSampler(Protocol):
    """An evaluation whose fresh replies need settings of their own: longer, or greedy. The others use the run's sampler."""

    def sampler(self, sampler: Sampler) -> Sampler:
        """The run's sampler with the evaluation's settings. Raises `UserError` if it has no such setting."""


class Source(Protocol):
    """A data set: a `Log`, or a `drift.data.simulation.Simulation` (`uses_policy`). `gives_records`: its records are finished: no
    miner labels them, and the intake only selects among them. `knows_truth`: they have a `truth` that a verifier can check."""

    uses_policy: ClassVar[bool]
    gives_records: ClassVar[bool]
    knows_truth: ClassVar[bool]


class Log(Source, Protocol):
    """A source that is read from files, and goes through drift/intake. `name` and `version` belong to the key of what was read."""

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def path(self) -> str | None: ...

    def files(self) -> list[Path]:
        """Every file of the log. Raises `UserError` where there is none."""

    def conversations(self, file: Path) -> Iterator[Any]:
        """A `drift.intake.conversations.Conversation` for each row of a file, or the `Aside` that says why it is not used."""


class Miner(Keyed, Protocol):
    """Classifies what users thought of replies from their next turns; see drift/intake/conversations.py for an `Opinion`."""

    def classify(self, conversations: list[list[Message]]) -> list[dict[int, Any]]:
        """For each conversation, an opinion of every reply that a user turn follows, by the reply's index."""


class Logger(Protocol):
    """Logs a run while it runs. `begin` is called once per run; what it returns gets everything else: see drift/logger/csv.py."""

    def begin(self, folder: Path, title: Mapping[str, str], notes: Mapping[str, str]) -> Any: ...


@runtime_checkable
class StudyLogger(Protocol):
    """A logger that also logs a study as a whole."""

    def study(self, folder: Path) -> None:
        """Called when the report of a sweep's folder has been written there, and by `drift report FOLDER logger=NAME`."""
