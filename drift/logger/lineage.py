"""Tells a logger what a run has made out of what: log -> records -> examples -> policy -> scores.

An output is named after its kind and its stage's key, so runs that share a stage share the output."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.store import Stage


class Lineage:
    """`log`: what a logger's `begin` returned. The latest records and the latest policy are what the next outputs are made from; ""
    stands for the start model, which the run has not made."""

    def __init__(self, log: Any) -> None:
        self.log, self.records, self.policy = log, "", ""

    def feedback(self, iteration: int, stage: Stage, log: Sequence[Path]) -> None:
        """`log`: the files that the records were read from; a simulation has none, and asks users about the policy's replies."""
        source = self._output("log", iteration, stage, log, "") if log else self.policy
        self.records = self._output("records", iteration, stage, [stage.path / "records.jsonl"], source)

    def trained(self, iteration: int, made: Stage, trained: Stage) -> None:
        examples = self._output("examples", iteration, made, [made.path / "examples.jsonl"], self.records, self.policy)
        self.policy = self._output("policy", iteration, trained, [trained.path / "policy"], examples, self.policy)

    def scored(self, iteration: int, results: Mapping[str, Stage]) -> None:
        for stage in results.values():
            self._output("scores", iteration, stage, [stage.path / "scores.json"], self.policy)

    def _output(self, kind: str, iteration: int, stage: Stage, paths: Sequence[Path], *made_from: str) -> str:
        name = f"{kind}-{stage.path.name}"
        self.log.output(name, iteration, paths, [one for one in made_from if one])
        return name
