"""`Ask`: what a method, a data set or an evaluation asks for fresh replies.

    for item, replies in ask.draw(items, prompts_of, first_sample=0, label="fresh replies"): ...

`prompts_of(item)` lists one prompt per reply wanted. Items (anything with a `key`) are cut into fixed groups in the order
given; a group is drawn when the loop reaches it, is a stage of the store, and is shared by everybody who asks for the same
replies of the same policy.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from drift.console import Progress
from drift.identity import identity
from drift.model.policy import Policy
from drift.randomness import uniforms
from drift.records import Prompt, Reply, digest
from drift.store import Store

VERSION = 2


class Item(Protocol):
    @property
    def key(self) -> str: ...


T = TypeVar("T", bound=Item)


class Ask:
    """Fresh replies of `policy` for one `purpose`. Use as a context manager: the model is loaded when the first group is
    missing and freed at the end. `drawn`: replies, their tokens, and prompts that were too long to sample from."""

    def __init__(self, *, sampler: Any, policy: Policy, store: Store, seed: int, purpose: str, iteration: int) -> None:
        self.sampler, self.policy, self.store = sampler, policy, store
        self.seed, self.purpose, self.iteration = seed, purpose, iteration
        self.drawn = {"replies": 0, "tokens": 0, "prompts_too_long": 0}
        self._stack = ExitStack()
        self._generate: Any = None  # of the loaded model: (prompts, noise, tick) -> replies

    def __enter__(self) -> "Ask":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def draw(
        self, items: Sequence[T], prompts_of: Callable[[T], Sequence[Prompt]], *, first_sample: int, label: str
    ) -> Iterator[tuple[T, list[Reply]]]:
        """Yields every item with a reply to each of its prompts, in order; the noise of the j-th is that of sample
        `first_sample + j`. All items have equally many. An item with a prompt that is too long is passed over and counted."""
        if not items:
            return
        num_samples = len(prompts_of(items[0]))
        size = max(1, self.sampler.group_size // num_samples)
        with Progress(label, total=len(items) * num_samples, unit="replies") as progress:
            for low in range(0, len(items), size):
                group = items[low : low + size]
                prompts = [prompts_of(item) for item in group]
                assert {len(of) for of in prompts} == {num_samples}, f"{label}: {num_samples} prompts of the first item, not of all"
                rows = [
                    (item.key, prompt, first_sample + j)
                    for item, of in zip(group, prompts, strict=True)
                    for j, prompt in enumerate(of)
                ]
                begun = progress.done
                replies = self._group(rows, partial(_tick, progress, len(rows)))
                progress.reach(begun + len(rows))
                for i, item in enumerate(group):
                    of_item = replies[i * num_samples : (i + 1) * num_samples]
                    kept = [reply for reply in of_item if reply is not None]
                    if len(kept) < len(of_item):
                        self.drawn["prompts_too_long"] += 1
                        continue
                    self.drawn["replies"] += len(kept)
                    self.drawn["tokens"] += sum(reply.num_tokens for reply in kept)
                    yield item, kept

    def _group(self, rows: list[tuple[str, Prompt, int]], tick: Callable[[float], None]) -> list[Reply | None]:
        """The group's replies, from the store or fresh; `tick` is told the share of the group that each step does."""

        def work(progress: Path, output: Path) -> dict[str, Any]:
            if self._generate is None:
                self._generate = self._stack.enter_context(self.sampler.open(self.policy))
            noise = [
                uniforms(self.seed, self.purpose, self.iteration, key, sample, self.sampler.max_new_tokens)
                for key, _, sample in rows
            ]
            replies = self._generate([prompt for _, prompt, _ in rows], noise, tick)
            lines = [
                {"item": key, "sample": sample, "prompt": list(prompt), "reply": reply and dataclasses.asdict(reply)}
                for (key, prompt, sample), reply in zip(rows, replies, strict=True)
            ]
            return {"rows": lines, "replies": len(rows), "tokens": sum(reply.num_tokens for reply in replies if reply)}

        settings = {
            "sampler": identity(self.sampler),
            "seed": self.seed,
            "purpose": self.purpose,
            "iteration": self.iteration,
        }
        settings["rows"] = digest([[key, list(prompt), sample] for key, prompt, sample in rows])
        stage = self.store.run("replies", work, version=VERSION, settings=settings, inputs={"policy": self.policy.fingerprint})
        # They stand in the manifest: a file less for each of many groups. The store's log of stages has no use for them.
        return [row["reply"] and Reply(**row["reply"]) for row in stage.facts.pop("rows")]


def _tick(progress: Progress, rows: int, share: float) -> None:
    progress.advance(share * rows)
