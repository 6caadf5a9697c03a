"""Groups of work for models, each a stage of the store, and what a rank does to compute one.

Which items form a group, and what is computed together in it, does not depend on the number of ranks: with several, each computes
whole groups, so the results are those of one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from drift.engine import models, ranks
from drift.engine.models import LoadsNothing
from drift.finite import need_finite
from drift.model.policy import Policy
from drift.parts import Judge, Sampler
from drift.randomness import Noise
from drift.records import Prompt, Record, Reply, digest
from drift.score.sequence import Compute, TokenSequence
from drift.store import Store

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Group:
    """`settings`, `inputs`: of the stage's key. `given`: what its function needs."""

    settings: dict[str, Any]
    inputs: dict[str, str]
    given: Any


def rounds(items: Sequence[Item], size: int, *, alone: bool = False) -> Iterator[list[Sequence[Item]]]:
    """The groups of `size` items, in order, as many at once as there are ranks; `alone`: one, for rank 0."""
    groups, at_once = [items[low : low + size] for low in range(0, len(items), size)], 1 if alone else ranks.world()
    yield from (groups[low : low + at_once] for low in range(0, len(groups), at_once))


def results(
    store: Store,
    name: str,
    version: int,
    function: Callable[..., dict[str, Any]],
    groups: Sequence[Group],
    here: Mapping[str, Any],
    before: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """What `function` makes of each group, from the store or fresh: those that are missing are computed at once, one by each rank.
    `here`: keyword arguments for rank 0 alone. `before`: is called there before anything is computed."""
    keys = [{"version": version, "settings": group.settings, "inputs": group.inputs} for group in groups]
    made = dict[int, dict[str, Any]]()

    def compute(first: int) -> dict[str, Any]:
        if first not in made:
            later = range(first + 1, len(groups))
            before()
            missing = [first, *(i for i in later if i not in made and store.find(name, **keys[i]) is None)]
            found = ranks.share(function, [groups[i].given for i in missing], here)
            made.update(zip(missing, found, strict=True))
        return made.pop(first)

    def stage(i: int) -> dict[str, Any]:
        def work(progress: Path, output: Path) -> dict[str, Any]:
            return compute(i)

        return store.run(name, work, **keys[i]).facts

    return [stage(i) for i in range(len(groups))]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Fresh replies. `rows`: (key of the item, prompt, number of the sample)."""

    sampler: Sampler
    policy: Policy
    noise: dict[str, Any]
    rows: list[tuple[str, Prompt, int]]


def draw(given: Draw, tick: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
    """A line for each row. `tick` is called with the share of the group that each step completes."""
    name = (given.sampler, given.policy.fingerprint)  # all of its settings, also those that no reply depends on
    generate = models.opened(name, lambda: given.sampler.open(given.policy))
    noise = [Noise(**given.noise, item=key, sample=sample) for key, _, sample in given.rows]
    replies = generate([prompt for _, prompt, _ in given.rows], noise, tick)
    lines = [
        {"item": key, "sample": sample, "prompt": list(prompt), "reply": reply and asdict(reply)}
        for (key, prompt, sample), reply in zip(given.rows, replies, strict=True)
    ]
    return {"rows": lines, "replies": len(lines), "tokens": sum(reply.num_tokens for reply in replies if reply)}


@dataclass(frozen=True, kw_only=True)
class Logprobs:
    """The log-probabilities of sequences under a policy."""

    compute: Compute
    policy: Policy
    sequences: list[TokenSequence]
    label: str


def logprobs(given: Logprobs, tick: Callable[[int], None] = lambda count: None) -> dict[str, Any]:
    """Their sums, in nats. `tick` is called with the number of sequences just done."""
    from drift.score import reference

    compute, policy = given.compute, given.policy
    name = f"log-probabilities {digest([asdict(compute), policy.fingerprint])}"
    logprobs_of = models.opened(name, lambda: reference.open_logprobs(compute, policy))
    nats = reference.by_length(logprobs_of, compute, given.sequences, given.label, tick)
    return {"rows": len(given.sequences), "nats": nats}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a judge is asked about. `alone`: the judge is opened on rank 0 only."""

    judge: Judge
    items: Sequence[tuple[Record, list[Reply]]]
    alone: bool


def scores(given: Judged) -> dict[str, Any]:
    """The scores of each item's replies, checked."""
    judge, opened = given.judge, models.opened_here_alone if given.alone else models.opened
    if isinstance(judge, LoadsNothing):
        with judge.open() as grade:
            found = grade(given.items)
    else:
        found = opened(judge, judge.open)(given.items)  # equal settings, its cap included: the same judge
    return {"items": len(given.items), "scores": _checked(judge, given.items, found)}


def _checked(
    judge: Judge, items: Sequence[tuple[Record, list[Reply]]], found: Sequence[Sequence[float | None]]
) -> Sequence[Sequence[float | None]]:
    """The scores of a group; raises UserError for one that is not finite."""
    counts = [len(item_scores) for item_scores in found]
    assert counts == [len(replies) for _, replies in items], f"{judge.label}: expected one score for each reply"
    numbers = {
        f"the score of a reply to {record.id} (item {i + 1}, reply {j + 1})": score
        for i, ((record, _), item_scores) in enumerate(zip(items, found, strict=True))
        for j, score in enumerate(item_scores)
        if score is not None
    }
    need_finite(numbers, f"Judge ({judge.label})", "Check the judge.")
    return found
