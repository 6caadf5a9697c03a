"""The run folder: what a person reads during and after a run. Everything in it is a link into the store or a small text file.

    config.yaml   run.json   report.html   libraries.log   records.jsonl   quarantine.jsonl   leakage.jsonl   steps.csv   scores.csv
    iteration_0/EVALUATION/{scores.json, replies.jsonl} (the start model; a warm start: warm_start/EVALUATION/…)
    iteration_2/{examples.jsonl, policy/, steps.jsonl, EVALUATION/{scores.json, replies.jsonl}}
    with refresh_log also iteration_2/{records.jsonl, quarantine.jsonl}; with a judge method.judge/agreement.json

`run.json` (drift/report/state.py) is written after every stage, so even a killed run has a report.
"""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drift import stop
from drift.alarms import WINDOW, Alarms
from drift.console import say
from drift.errors import UserError
from drift.examples.filters import dropped
from drift.files import link
from drift.intake.collected import said_of
from drift.logger.lineage import Lineage
from drift.logger.rows import as_row
from drift.masking import masked
from drift.records import Example, Record, read_jsonl, write_json, write_jsonl
from drift.report import state, verdict
from drift.report.members import metrics_of, scores_of
from drift.report.shapes import plain
from drift.report.state import RUN, WARM_START, Alarm, Point, RunState, Scores, SpentStage
from drift.report.tables import show, show_difference
from drift.statistics import level, paired
from drift.store import Stage, Store, environment, retention

NUM_SAMPLES = 24  # examples, and replies, that a logger gets


class Journal:
    """Keeps the folder of one run up to date. `title`: what distinguishes it in a study, e.g. {"seed": "0"}."""

    def __init__(
        self, folder: Path, title: dict[str, str], notes: dict[str, str], store: Store, logger: Any, alarms: Alarms
    ) -> None:
        self.folder, self.store, self.alarms = folder, store, alarms
        self.state = RunState(
            version=state.VERSION, title=title, notes=notes, status="running", error=None, data={}, evaluations={}, outlook=[],
            points=[], stages=[], alarms=[], watched=alarms.active(), environment=environment(),
            begun=datetime.now().isoformat(timespec="seconds"), seconds=0.0,
        )  # fmt: skip
        self.begun = time.monotonic()
        self.num_steps_logged: dict[int, int] = {}  # by iteration
        self.start: dict[str, Scores] = {}  # evaluation -> the start model's scores
        self.policies: dict[str, Path] = {}  # name -> the stage of its training
        self.log = logger.begin(folder, title, notes)  # may refuse to begin, before anything is kept
        self.user = store.used_by(folder)
        self.lineage = Lineage(self.log)
        self.write()

    def write(self) -> None:
        extra = ("tokens", "padding_share", "prefix_saving")
        self.state.stages = [
            SpentStage(
                name=s.name, seconds=s.seconds, peak_gib=s.peak_gib, hit=s.hit, **{n: s.facts[n] for n in extra if n in s.facts}
            )
            for s in self.store.log
        ]
        self.state.seconds = round(time.monotonic() - self.begun, 1)
        write_json(self.folder / RUN, masked(plain(self.state)))

    def feedback(self, iteration: int, stage: Stage, log: Sequence[Path]) -> None:
        """Links the records that this iteration and the later ones learn from, and says how many there are; `log`: their files."""
        self.lineage.feedback(iteration, stage, log)
        folder, counts = self.folder, stage.facts["counts"]
        if iteration > 1:
            folder, counts = folder / f"iteration_{iteration}", {f"{name}, iteration {iteration}": n for name, n in counts.items()}
        link(stage.path / "records.jsonl", folder / "records.jsonl")
        link(stage.path / "quarantine.jsonl", folder / "quarantine.jsonl")
        self.state.data |= counts
        self.store.say_found()
        for line in said_of(stage.facts["counts"], stage.facts["set_aside"]):
            say(line)
        self.write()

    def compared(self, name: str, stage: Stage) -> None:
        """Says how far the sampler's log-probabilities are from training's: that they sample from and train the same policy."""
        line = f"{name}: {stage.facts['found']}"
        self.state.compared = list(dict.fromkeys([*self.state.compared, line, *stage.facts["caveats"]]))
        say(f"  {line}")
        self.write()

    def agreed(self, place: str, stage: Stage) -> None:
        """Links how far a judge, by its place in the config, agrees with the users."""
        link(stage.path / "agreement.json", self.folder / place / "agreement.json")

    def outlook(self, meanings: Mapping[str, Mapping[str, str]], outlook: list[str]) -> None:
        """Notes what the metrics of each evaluation mean (evaluation -> metric -> sentence, the headline's first), and says what
        they can show at all."""
        self.state.evaluations = {name: dict(metrics) for name, metrics in meanings.items()}
        self.state.outlook = outlook
        for line in outlook:
            say(f"  {line}")
        self.write()

    def leaks(self, rows: list[dict[str, Any]]) -> None:
        """Writes down the training records whose prompts the evaluations ask, if there are any."""
        if rows:
            write_jsonl(self.folder / "leakage.jsonl", rows)
        self.state.data["training records with prompts of the evaluation"] = len(rows)
        self.write()

    def sampled(self, iteration: int, made: Stage, examples: list[Example], log: list[Record]) -> None:
        """Checks the examples before anything is trained on them; `log`: the records that they were made from."""
        raised = self.alarms.in_sampling(made.facts["counts"]) | self.alarms.in_examples(examples, log)
        self.raise_alarms(iteration, "sampling", raised)

    def log_steps(self, iteration: int, history: Sequence[dict[str, float]]) -> None:
        """Gives the logger the steps that it does not have yet, and checks the training up to each of them."""
        logged = self.num_steps_logged.get(iteration, 0)
        if logged >= len(history):
            return
        self.log.steps(iteration, history[logged:])
        self.num_steps_logged[iteration] = len(history)
        first = history[:WINDOW]
        for step in range(max(logged + 1, WINDOW), len(history) + 1):
            raised = self.alarms.in_training([*first, *history[step - WINDOW : step]])
            self.raise_alarms(iteration, f"training, step {step}", raised)

    def raise_alarms(self, iteration: int, during: str, raised: dict[str, str]) -> None:
        """Reports each alarm once per iteration; ends the run where `alarms.action` is stop. `raised`: alarm -> measurement."""
        known = {alarm.name for alarm in self.state.alarms if alarm.iteration == iteration}
        for name, text in raised.items():
            if name in known:
                continue
            self.state.alarms.append(Alarm(iteration=iteration, during=during, name=name, text=text))
            self.log.alarm(iteration, during, name, text)
            say(f"  ALARM ({name}) in iteration {iteration}, {during}: {text}")
            self.write()
            if self.alarms.action == "stop":
                raise UserError(
                    f"The alarm {name} stopped the run in iteration {iteration}, {during}: {text}. Finished stages are kept; "
                    f"to continue, set alarms.action=warn or alarms.{name}=null."
                )

    def trained(self, iteration: int, made: Stage, trained: Stage, examples: Sequence[Example]) -> None:
        """Adds an iteration's policy (the warm start is iteration 0) and what it was trained on."""
        folder, title = self.folder / f"iteration_{iteration}", f"iteration {iteration}" if iteration else WARM_START
        self.policies[title] = trained.path
        link(made.path / "examples.jsonl", folder / "examples.jsonl")
        for name in ("policy", "steps.jsonl"):
            link(trained.path / name, folder / name)
        self.lineage.trained(iteration, made, trained)
        steps = read_jsonl(trained.path / "steps.jsonl")
        self.log_steps(iteration, steps)  # the steps of a training that was found in the store
        self.log.samples(iteration, "examples", [as_row(example) for example in examples[:NUM_SAMPLES]])
        counts = made.facts["counts"]
        self.state.points.append(
            Point(
                iteration=iteration,
                name=title,
                examples=len(examples),
                steps=trained.facts["steps"],
                distinct_prompts=len({json.dumps(list(example.prompt)) for example in examples}),
                generated_tokens=made.facts["drawn"]["tokens"],
                prompts_too_long=made.facts["drawn"]["prompts_too_long"],
                counts=counts,
                first_step={name: value for name, value in steps[0].items() if name != "step"},
            )
        )
        rules, done = dropped(counts) or "none dropped", trained.facts["steps"]
        self.store.say_found()
        say(f"  {len(examples)} examples from {counts['seen']} candidates ({rules}), {done} steps")
        self.write()

    def scored(self, iteration: int, name: str, results: Mapping[str, Stage]) -> None:
        """Adds a policy's evaluations, the run's headline first."""
        warm = name == WARM_START
        folder = self.folder / ("warm_start" if warm else f"iteration_{iteration}")
        scores = {evaluation: state.scores(link_scores(stage, folder / evaluation)) for evaluation, stage in results.items()}
        self.log.scores(iteration, name, metrics_of(scores))
        self.lineage.scored(iteration, results)
        for i, (evaluation, stage) in enumerate(results.items()):
            if (replies := stage.path / "replies.jsonl").is_file():
                kind = (WARM_START if warm else "replies") + (f", {evaluation}" if i else "")
                self.log.samples(iteration, kind, read_jsonl(replies)[:NUM_SAMPLES])
        if not self.state.points or self.state.points[-1].name != name:
            self.state.points.append(Point(iteration=iteration, name=name))
        self.state.points[-1].scores = scores
        self.start = self.start or scores
        self.store.say_found()
        self._say_scores(name, scores)
        self.write()
        self.raise_alarms(iteration, "evaluation", self._in_evaluations(scores))
        self._keep_policies()

    def _keep_policies(self) -> None:
        """Removes the weights of the policies that `store.keep_policies` does not keep."""
        keep, headlines = self.store.keep_policies, {point.name: scores_of(point) for point in self.state.points}
        values = {name: scores.metrics[scores.headline].value for name, scores in headlines.items() if scores is not None}
        removed = retention.apply(keep, self.user, self.policies, values)
        if removed != self.state.removed:
            say(f"  The weights of {', '.join(removed)} are removed (store.keep_policies={keep}).")
            self.state.removed = removed
            self.write()

    def _in_evaluations(self, scores: Mapping[str, Scores]) -> dict[str, str]:
        """Alarm -> what was measured, by all evaluations that raise it."""
        raised: dict[str, list[str]] = {}
        for name, now in scores.items():
            values = (metrics_of({name: one}) for one in (now, self.start[name]))
            for alarm, text in self.alarms.in_evaluation(*values).items():
                raised.setdefault(alarm, []).append(text if len(scores) == 1 else f"{name}: {text}")
        return {alarm: "; ".join(texts) for alarm, texts in raised.items()}

    def _say_scores(self, name: str, scores: dict[str, Scores]) -> None:
        for i, (evaluation, measured) in enumerate(scores.items()):
            meaning = self.state.evaluations.get(evaluation, {}).get(measured.headline)
            if scores is self.start and meaning:
                say(f"  {measured.headline}: {meaning}.")
            headline = self._headline(evaluation, measured)
            say(f"  {evaluation}: {headline}" if i else f"{name}: {headline}")

    def _headline(self, evaluation: str, scores: Scores) -> str:
        name, start = scores.headline, self.start[evaluation]
        values = scores.metrics[name].per_item or {}
        now = level([values], scores.conversations)
        text = f"{name} {show(now, 3)} ({now.over})"
        if scores is not start:
            gain = paired([values], [start.metrics[name].per_item or {}], scores.conversations)
            text += f", change from the start model {show_difference(gain, 3)}"
        return text

    def finish(self, error: BaseException | None) -> None:
        stopped = isinstance(error, (stop.Stopped, KeyboardInterrupt))
        self.state.status = "finished" if error is None else "stopped" if stopped else "failed"
        self.state.error = None if error is None or stopped else f"{type(error).__name__}: {error}"
        self.write()
        self.user.end(finished=error is None)
        self.log.summary(verdict.in_numbers(self.state))
        self.log.end(failed=error is not None)


def link_scores(stage: Stage, folder: Path) -> dict[str, Any]:
    """Links the files of an evaluation into a folder; returns its scores."""
    for file in sorted(stage.path.glob("*.json*")):
        if file.name != "manifest.json":
            link(file, folder / file.name)
    return json.loads((stage.path / "scores.json").read_text(encoding="utf-8"))
