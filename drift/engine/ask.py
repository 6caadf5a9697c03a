"""`Ask`: what a method, a data set or an evaluation asks of models (its contract: drift/parts.py).

    for item, replies in ask.draw(items, prompts_of, label="fresh replies"): ...
    ask.logprobs([(prompt, reply, ended), ...], of="start", label="perplexity")
    for record, replies, scores in ask.judge(judge, drawn, label="judging"): ...
    ask.verdicts(examiner, [(task, replies), ...], label="verdicts")

The items are split into groups in the given order, the same for any number of ranks. Each group is a stage of the store, computed
when it is reached, and reused by everyone who asks the same of the same model. Its results are in its manifest.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from math import ceil
from pathlib import Path
from typing import Any, Literal

from drift.console import Progress
from drift.engine import groups, models, ranks
from drift.engine.budget import Paid, charged
from drift.engine.models import Local
from drift.engine.rendered import render_replies
from drift.engine.same_policy import compare_again
from drift.identity import identity
from drift.model.policy import Policy, load_tokenizer
from drift.parts import Examiner, Judge, Sampler, T
from drift.records import Logprob, Prompt, Record, Reply, digest
from drift.sampler.contracts import Lasting
from drift.score.sequence import Compute, TokenSequence
from drift.store import Store

DRAW_VERSION, LOGPROBS_VERSION, JUDGE_VERSION = 2, 1, 3
SEQUENCES = 256  # per stage of log-probabilities
SPARE, LEAST = 1 / 8, 16  # items drawn beyond the missing examples, because some are dropped; the fewest that are drawn at once


class Ask:
    """Bound to a policy, the run's start model, and the seed, purpose and iteration of fresh replies. Use as a context manager.
    `compute`: the settings for log-probabilities. `drawn`: counts replies, their tokens, prompts that were too long, and
    items that a judge could not score. `missing`: the examples that are still to be made; see parts.py."""

    def __init__(
        self,
        *,
        sampler: Sampler,
        compute: Compute,
        store: Store,
        start: Policy,
        policy: Policy,
        seed: int,
        purpose: str,
        iteration: int,
    ) -> None:
        self.sampler, self.compute, self.store, self.start, self.policy = sampler, compute, store, start, policy
        self.seed, self.purpose, self.iteration = seed, purpose, iteration
        self.drawn = {"replies": 0, "tokens": 0, "prompts_too_long": 0, "unjudged": 0}
        self.missing: int | None = None

    def __enter__(self) -> "Ask":
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            ranks.everywhere(models.close)
        else:  # the other ranks may be busy, or have ended
            models.close()

    def draw(
        self, items: Sequence[T], prompts_of: Callable[[T], Sequence[Prompt]], *, label: str, rounds: int = 1
    ) -> Iterator[tuple[T, list[Reply]]]:
        """Every item, in order, with a fresh reply to each of its prompts; see parts.py."""
        if not items:
            return
        num_samples = len(prompts_of(items[0]))
        size = max(1, self.sampler.group_size // num_samples)
        passes = chain.from_iterable(((k, item) for item in items) for k in range(rounds))
        while turn := list(islice(passes, self._needed())):
            with Progress(label, total=len(turn) * num_samples, unit="replies") as progress:
                for at_once in groups.rounds(turn, size, alone=isinstance(self.sampler, Paid)):
                    rows = [self._rows(group, prompts_of, num_samples, label) for group in at_once]
                    begun, count = progress.done, sum(map(len, rows))
                    found = self._replies(rows, partial(_tick, progress, count))
                    progress.reach(begun + count)
                    for group, replies in zip(at_once, found, strict=True):
                        yield from self._whole([item for _, item in group], replies, num_samples)

    def _needed(self) -> int | None:
        """How many items are probably enough for the missing examples. None: all are wanted."""
        return None if self.missing is None else max(LEAST, ceil(self.missing * (1 + SPARE)))

    def _rows(
        self, group: Sequence[tuple[int, T]], prompts_of: Callable[[T], Sequence[Prompt]], num_samples: int, label: str
    ) -> list[tuple[str, Prompt, int]]:
        """`group`: (number of the pass, item)."""
        prompts = [prompts_of(item) for _, item in group]
        counts = {len(item_prompts) for item_prompts in prompts}
        assert counts == {num_samples}, f"{label}: {num_samples} prompts for the first item, but not for all"
        return [
            (item.key, prompt, k * num_samples + j)
            for (k, item), item_prompts in zip(group, prompts, strict=True)
            for j, prompt in enumerate(item_prompts)
        ]

    def _replies(self, groups_of_rows: list[list[tuple[str, Prompt, int]]], tick: Callable[[float], None]) -> list[Any]:
        """The replies of each group, from the store or fresh. `tick` is called with the share that each step completes."""
        noise = {"seed": self.seed, "purpose": self.purpose, "iteration": self.iteration}
        inputs, wanted = {"policy": self.policy.fingerprint}, []
        for rows in groups_of_rows:
            asked = digest([[key, list(prompt), sample] for key, prompt, sample in rows])
            settings = {"sampler": identity(self.sampler), "rows": asked} | noise
            given = groups.Draw(sampler=self.sampler, policy=self.policy, noise=noise, rows=rows)
            wanted.append(groups.Group(settings=settings, inputs=inputs, given=given))
        if isinstance(self.sampler, Paid):
            found = [self._bought(self.sampler, group, tick) for group in wanted]
        else:
            found = groups.results(self.store, "replies", DRAW_VERSION, groups.draw, wanted, {"tick": tick}, self._before_drawing)
        # the rows are not needed in the log of stages
        return [[row["reply"] and Reply(**row["reply"]) for row in facts.pop("rows")] for facts in found]

    def _bought(self, sampler: Paid, group: groups.Group, tick: Callable[[float], None]) -> dict[str, Any]:
        """The facts of a group of replies that cost money."""
        name = f"{digest(identity(sampler))[:12]}/{digest([group.settings, group.inputs])[:24]}"

        def work(progress: Path, output: Path) -> dict[str, Any]:
            self._before_drawing()
            return charged(sampler, self.store.dollars(), name, lambda: groups.draw(group.given, tick))

        return self.store.run("replies", work, version=DRAW_VERSION, settings=group.settings, inputs=group.inputs).facts

    def _before_drawing(self) -> None:
        if isinstance(self.sampler, Lasting):
            compare_again(self)

    def _whole(self, group: Sequence[T], replies: list[Reply | None], num_samples: int) -> Iterator[tuple[T, list[Reply]]]:
        """The items with a reply to each of their prompts."""
        for i, item in enumerate(group):
            item_replies = replies[i * num_samples : (i + 1) * num_samples]
            kept = [reply for reply in item_replies if reply is not None]
            if len(kept) < len(item_replies):
                self.drawn["prompts_too_long"] += 1
                continue
            self.drawn["replies"] += len(kept)
            self.drawn["tokens"] += sum(reply.num_tokens for reply in kept)
            yield item, kept

    def logprobs(
        self, texts: Sequence[tuple[Prompt, str, bool]], *, of: Literal["policy", "start"], label: str
    ) -> list[Logprob | None]:
        """The log-probability of each reply, given as (prompt, reply, ended); see parts.py."""
        policy = {"policy": self.policy, "start": self.start}[of]
        sequences = render_replies(load_tokenizer(policy), texts)
        numbers, result = list(sequences), dict[int, Logprob]()
        with Progress(label, total=len(numbers), unit="replies") as progress:
            for at_once in groups.rounds(numbers, SEQUENCES):
                begun, chosen = progress.done, [[sequences[i] for i in group] for group in at_once]
                tick = partial(_tick, progress, len(chosen))
                for group, nats in zip(at_once, self._nats(chosen, policy, label, tick), strict=True):
                    result |= {i: Logprob(nats=one, num_tokens=len(sequences[i].reply)) for i, one in zip(group, nats, strict=True)}
                progress.reach(begun + sum(map(len, at_once)))
        return [result.get(i) for i in range(len(texts))]

    def _nats(
        self, chosen: list[list[TokenSequence]], policy: Policy, label: str, tick: Callable[[int], None]
    ) -> list[list[float]]:
        compute, wanted = self.compute, []
        settings = {"compute": [compute.lightning, compute.dtype, compute.layout, compute.tokens_per_batch]}
        for group in chosen:
            inputs = {"policy": policy.fingerprint, "rows": digest([dataclasses.asdict(sequence) for sequence in group])}
            given = groups.Logprobs(compute=compute, policy=policy, sequences=group, label=label)
            wanted.append(groups.Group(settings=settings, inputs=inputs, given=given))
        found = groups.results(self.store, "logprobs", LOGPROBS_VERSION, groups.logprobs, wanted, {"tick": tick})
        return [facts.pop("nats") for facts in found]

    def judge(
        self, judge: Judge, drawn: Iterable[tuple[Record, list[Reply]]], *, label: str
    ) -> Iterator[tuple[Record, list[Reply], list[float]]]:
        """The drawn replies, in order, with a score for each; see parts.py."""
        items, size = iter(drawn), judge.group_size
        shared = isinstance(judge, Local) and not isinstance(judge, Paid)
        while some := list(islice(items, size * ranks.world() if shared else size)):
            with Progress(label, total=len(some), unit="items") as progress:
                scores = self._scores(judge, [some[low : low + size] for low in range(0, len(some), size)], shared)
                progress.reach(len(some))
            for (record, replies), item_scores in zip(some, scores, strict=True):
                found = [score for score in item_scores if score is not None]
                if len(found) < len(replies):
                    self.drawn["unjudged"] += 1
                    continue
                yield record, replies, found

    def _scores(self, judge: Judge, asked: list[list[tuple[Record, list[Reply]]]], shared: bool) -> list[Sequence[float | None]]:
        """The scores of each item. `shared`: by all ranks."""
        if not shared:
            (group,) = asked
            given = groups.Judged(judge=judge, items=group, alone=True)
            return self._judged(judge, _judged_digest(group), len(group), "scores", lambda: groups.scores(given)["scores"])
        wanted = [
            groups.Group(
                settings={"judge": identity(judge)},
                inputs={"items": _judged_digest(group)},
                given=groups.Judged(judge=judge, items=group, alone=False),
            )
            for group in asked
        ]
        found = groups.results(self.store, "judge", JUDGE_VERSION, groups.scores, wanted, {})
        return [scores for facts in found for scores in facts.pop("scores")]

    def verdicts(
        self, examiner: Examiner, items: Sequence[tuple[Any, Sequence[str]]], *, label: str
    ) -> list[list[Mapping[str, Any]]]:
        """For each task with its replies, what the judge's answers to its questions say; see parts.py."""
        found, size = [], examiner.group_size
        with Progress(label, total=len(items), unit="tasks") as progress:
            for low in range(0, len(items), size):
                group, later = items[low : low + size], items[low + size :]
                judged = digest([[task.key, list(replies)] for task, replies in group])
                examined = partial(examiner.examine, group, later=later)
                found += self._judged(examiner, judged, len(group), "verdicts", examined)
                progress.reach(low + len(group))
        return found

    def _judged(self, judge: Any, judged: str, num_items: int, what: str, make: Callable[[], Any]) -> Any:
        """What `make` makes of a group, as a stage that keeps it under the name `what`. `judged`: the digest of the items. What the
        answers cost is kept, too, and counts for the budget of a run that finds the stage."""
        settings = {"judge": identity(judge)}
        name = f"{digest(settings)[:12]}/{judged[:24]}"

        def examine() -> dict[str, Any]:
            return {"items": num_items, what: make()}

        def work(progress: Path, output: Path) -> dict[str, Any]:
            return charged(judge, self.store.dollars(), name, examine) if isinstance(judge, Paid) else examine()

        stage = self.store.run("judge", work, version=JUDGE_VERSION, settings=settings, inputs={"items": judged})
        return stage.facts.pop(what)


def _judged_digest(group: Sequence[tuple[Record, Sequence[Reply]]]) -> str:
    """Of what a judge may read."""
    return digest([
        [record.key, record.label, record.revised, record.satisfied, record.truth, [[one.text, one.ended] for one in replies]]
        for record, replies in group
    ])  # fmt: skip


def _tick(progress: Progress, times: float, amount: float) -> None:
    """What is done on this rank stands for what is done at the same time on all."""
    progress.advance(times * amount)
