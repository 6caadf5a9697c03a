"""`Ask`: what a method, a data set or an evaluation asks of models (its contract: drift/parts.py).

    for item, replies in ask.draw(items, prompts_of, first_sample=0, label="fresh replies"): ...
    ask.logprobs([(prompt, reply, ended), ...], of="start", label="perplexity")
    for record, replies, scores in ask.judge(judge, drawn, label="judging"): ...
    ask.verdicts(examiner, [(task, replies), ...], label="verdicts")

The items are split into fixed groups in the given order. Each group is a stage of the store: it is computed when it is reached, and
reused by everyone who asks the same of the same model. Its results are in its manifest, which saves a file per group.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from drift.console import Progress
from drift.engine.budget import Paid
from drift.engine.models import OneModel
from drift.finite import need_finite
from drift.identity import identity
from drift.model.policy import Policy, load_tokenizer
from drift.parts import Examiner, Judge, Sampler, T
from drift.randomness import Noise
from drift.records import Logprob, Prompt, Record, Reply, digest
from drift.score.sequence import Compute, TokenSequence
from drift.store import Store

DRAW_VERSION, LOGPROBS_VERSION, JUDGE_VERSION = 2, 1, 3
SEQUENCES = 256  # per stage of log-probabilities


class Ask:
    """Bound to a policy, the run's start model, and the seed, purpose and iteration of fresh replies. Use as a context manager.
    `compute`: the settings for log-probabilities. `drawn`: counts replies, their tokens, prompts that were too long, and
    items that a judge could not score."""

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
        self._model = OneModel()

    def __enter__(self) -> "Ask":
        return self

    def __exit__(self, *error: Any) -> None:
        self._model.__exit__(*error)

    def draw(
        self, items: Sequence[T], prompts_of: Callable[[T], Sequence[Prompt]], *, first_sample: int, label: str
    ) -> Iterator[tuple[T, list[Reply]]]:
        """Every item, in order, with a fresh reply to each of its prompts; see parts.py."""
        if not items:
            return
        num_samples = len(prompts_of(items[0]))
        size = max(1, self.sampler.group_size // num_samples)
        with Progress(label, total=len(items) * num_samples, unit="replies") as progress:
            for low in range(0, len(items), size):
                group = items[low : low + size]
                prompts = [prompts_of(item) for item in group]
                counts = {len(item_prompts) for item_prompts in prompts}
                assert counts == {num_samples}, f"{label}: {num_samples} prompts for the first item, but not for all"
                rows = [
                    (item.key, prompt, first_sample + j)
                    for item, item_prompts in zip(group, prompts, strict=True)
                    for j, prompt in enumerate(item_prompts)
                ]
                begun = progress.done
                replies = self._draw_group(rows, partial(_tick, progress, len(rows)))
                progress.reach(begun + len(rows))
                for i, item in enumerate(group):
                    item_replies = replies[i * num_samples : (i + 1) * num_samples]
                    kept = [reply for reply in item_replies if reply is not None]
                    if len(kept) < len(item_replies):
                        self.drawn["prompts_too_long"] += 1
                        continue
                    self.drawn["replies"] += len(kept)
                    self.drawn["tokens"] += sum(reply.num_tokens for reply in kept)
                    yield item, kept

    def _draw_group(self, rows: list[tuple[str, Prompt, int]], tick: Callable[[float], None]) -> list[Reply | None]:
        """The group's replies, from the store or fresh. `tick` is called with the share of the group that each step completes."""

        def work(progress: Path, output: Path) -> dict[str, Any]:
            generate = self._model.get("sampler", partial(self.sampler.open, self.policy))
            noise = [Noise(self.seed, self.purpose, self.iteration, key, sample) for key, _, sample in rows]
            replies = generate([prompt for _, prompt, _ in rows], noise, tick)
            lines = [
                {"item": key, "sample": sample, "prompt": list(prompt), "reply": reply and dataclasses.asdict(reply)}
                for (key, prompt, sample), reply in zip(rows, replies, strict=True)
            ]
            return {"rows": lines, "replies": len(rows), "tokens": sum(reply.num_tokens for reply in replies if reply)}

        noise = {"seed": self.seed, "purpose": self.purpose, "iteration": self.iteration}
        asked = digest([[key, list(prompt), sample] for key, prompt, sample in rows])
        settings = {"sampler": identity(self.sampler), "rows": asked} | noise
        inputs = {"policy": self.policy.fingerprint}
        stage = self.store.run("replies", work, version=DRAW_VERSION, settings=settings, inputs=inputs)
        return [row["reply"] and Reply(**row["reply"]) for row in stage.facts.pop("rows")]  # not needed in the log of stages

    def logprobs(
        self, texts: Sequence[tuple[Prompt, str, bool]], *, of: Literal["policy", "start"], label: str
    ) -> list[Logprob | None]:
        """The log-probability of each reply, given as (prompt, reply, ended); see parts.py."""
        policy = {"policy": self.policy, "start": self.start}[of]
        sequences = render_replies(load_tokenizer(policy), texts)
        numbers, result = list(sequences), dict[int, Logprob]()
        with Progress(label, total=len(numbers), unit="replies") as progress:
            for low in range(0, len(numbers), SEQUENCES):
                group = numbers[low : low + SEQUENCES]
                begun = progress.done
                sums = self._logprobs_group([sequences[i] for i in group], policy, label, progress.advance)
                progress.reach(begun + len(group))
                for i, nats in zip(group, sums, strict=True):
                    result[i] = Logprob(nats=nats, num_tokens=len(sequences[i].reply))
        return [result.get(i) for i in range(len(texts))]

    def _logprobs_group(self, group: list[TokenSequence], policy: Policy, label: str, tick: Callable[[int], None]) -> list[float]:
        from drift.score import reference

        def work(progress: Path, output: Path) -> dict[str, Any]:
            name = f"log-probabilities under {policy.fingerprint}"
            logprobs_of = self._model.get(name, lambda: reference.open_logprobs(self.compute, policy))
            return {"rows": len(group), "nats": reference.by_length(logprobs_of, self.compute, group, label, tick)}

        settings = {"compute": [self.compute.lightning, self.compute.dtype, self.compute.layout, self.compute.tokens_per_batch]}
        inputs = {"policy": policy.fingerprint, "rows": digest([dataclasses.asdict(sequence) for sequence in group])}
        stage = self.store.run("logprobs", work, version=LOGPROBS_VERSION, settings=settings, inputs=inputs)
        return stage.facts.pop("nats")

    def judge(
        self, judge: Judge, drawn: Iterable[tuple[Record, list[Reply]]], *, label: str
    ) -> Iterator[tuple[Record, list[Reply], list[float]]]:
        """The drawn replies, in order, with a score for each; see parts.py."""
        items = iter(drawn)
        while group := list(islice(items, judge.group_size)):
            with Progress(label, total=len(group), unit="items") as progress:
                scores = self._judge_group(judge, group)
                progress.reach(len(group))
            for (record, replies), item_scores in zip(group, scores, strict=True):
                found = [score for score in item_scores if score is not None]
                if len(found) < len(replies):
                    self.drawn["unjudged"] += 1
                    continue
                yield record, replies, found

    def _judge_group(self, judge: Judge, group: list[tuple[Record, list[Reply]]]) -> list[list[float | None]]:
        judged = digest([
            [record.key, record.label, record.revised, record.satisfied, record.truth, [[one.text, one.ended] for one in replies]]
            for record, replies in group
        ])  # fmt: skip

        def scores() -> Sequence[Sequence[float | None]]:
            return _checked(judge, group, self._model.get(judge, judge.open)(group))

        return self._judged(judge, judged, len(group), "scores", scores)

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
        kind = digest(settings)[:12]
        name = f"{kind}/{judged[:24]}"

        def work(progress: Path, output: Path) -> dict[str, Any]:
            if not isinstance(judge, Paid):
                return {"items": num_items, what: make()}
            for earlier, dollars in self.store.dollars().items():
                if earlier.startswith(kind):
                    judge.budget.count_stage(earlier, dollars)
            used = judge.budget.used
            found = make()
            judge.budget.finished.add(name)
            return {"items": num_items, what: found, "dollars": {name: judge.budget.used - used}}

        stage = self.store.run("judge", work, version=JUDGE_VERSION, settings=settings, inputs={"items": judged})
        return stage.facts.pop(what)


def _checked(
    judge: Judge, group: list[tuple[Record, list[Reply]]], scores: Sequence[Sequence[float | None]]
) -> Sequence[Sequence[float | None]]:
    """The scores of a group; raises UserError for one that is not finite."""
    counts = [len(item_scores) for item_scores in scores]
    assert counts == [len(replies) for _, replies in group], f"{judge.label}: expected one score for each reply"
    numbers = {
        f"the score of a reply to {record.id} (item {i + 1}, reply {j + 1})": score
        for i, ((record, _), item_scores) in enumerate(zip(group, scores, strict=True))
        for j, score in enumerate(item_scores)
        if score is not None
    }
    need_finite(numbers, f"Judge ({judge.label})", "Check the judge.")
    return scores


def _tick(progress: Progress, rows: int, share: float) -> None:
    progress.advance(share * rows)


def render_replies(tokenizer: Any, texts: Sequence[tuple[Prompt, str, bool]]) -> dict[int, TokenSequence]:
    """Index -> token ids, for the texts that the chat template can render to at least one token."""
    from drift.model.chat import NotAPrefix, prompt_ids, reply_ids

    sequences = {}
    for i, (prompt, text, ended) in enumerate(texts):
        try:
            sequence = TokenSequence(prompt=prompt_ids(tokenizer, prompt), reply=reply_ids(tokenizer, prompt, text, ended=ended))
        except NotAPrefix:  # the template would change the reply
            continue
        if sequence.reply:
            sequences[i] = sequence
    return sequences
