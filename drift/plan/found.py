"""Which stages of a run are in the store already: the loop itself runs, with a store that computes nothing."""

import io
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drift.errors import UserError
from drift.loop import Loop
from drift.start import open_start
from drift.store import Stage, Store
from drift.train.batch_size import with_number


class Missing(Exception):
    """A stage that is not in the store; its name."""


@dataclass(frozen=True, kw_only=True)
class Looking:
    """A store that only looks: `run` gives finished stages, and raises `Missing` at the first one that is not there."""

    store: Store
    log: list[Stage] = field(default_factory=list)

    def run(self, name: str, work: Any, *, version: int, settings: dict[str, Any], inputs: dict[str, str]) -> Stage:
        stage = self.store.find(name, version=version, settings=settings, inputs=inputs)
        if stage is None:
            raise Missing(name)
        self.log.append(stage)
        return stage

    def note(self, *paths: Path) -> None:
        """Nothing that is looked at is used."""


class Silent:
    """A journal that keeps nothing."""

    def ignore(self, *what: Any) -> None: ...

    compared = feedback = leaks = agreed = outlook = sampled = log_steps = trained = scored = ignore


def stages_of(run: Any) -> tuple[dict[str, int], str | None] | None:
    """({stage: how many of them are in the store}, the name of the first missing one, or None if all are there). What follows a
    missing stage depends on it, and is missing too. None: the model is not complete here, so that no key is known."""
    looking, missing = Looking(store=run.store), None
    try:
        start, tokenizer = open_start(run)
    except UserError:
        return None
    journal: Any = Silent()
    try:
        with redirect_stdout(io.StringIO()):
            looked = with_number(replace(run, store=looking), start)
            Loop(run=looked, journal=journal, start=start, tokenizer=tokenizer).iterate()
    except Missing as stage:
        missing = str(stage)
    return dict(Counter(stage.name for stage in looking.log)), missing
