"""The run folder: what a person reads while and after a run. Everything in it is a link into the store or small text.

    config.yaml   run.json   report.html   libraries.log   records.jsonl   quarantine.jsonl   leakage.jsonl   steps.csv   scores.csv
    iteration_0/deployment/scores.json (the start model's, of one evaluation)
    iteration_2/{pairs.jsonl, policy/, steps.jsonl, deployment/scores.json, deployment/replies.jsonl}
    with refresh_log, iteration_2/{records.jsonl, quarantine.jsonl} too

`run.json` is written after every stage, so the report of a killed run can be built too.
"""

import json
import os
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from drift import stop
from drift.alarms import Alarms
from drift.console import say
from drift.errors import UserError
from drift.examples.filters import NOTED
from drift.files import beside
from drift.masking import masked
from drift.records import Pair, Record, read_jsonl, write_json, write_jsonl
from drift.report import verdict
from drift.report.foreign import RUN, first_evaluation
from drift.report.statistics import level, paired
from drift.report.tables import show, show_difference
from drift.store import Stage, Store, environment

NUM_SAMPLES = 24  # pairs and replies that a logger gets


class Journal:
    """Keeps the folder of one run. `title`: what distinguishes it in a study, e.g. {"seed": "0"}."""

    def __init__(
        self, folder: Path, title: dict[str, str], notes: dict[str, str], store: Store, logger: Any, alarms: Alarms
    ) -> None:
        self.folder, self.store, self.alarms = folder, store, alarms
        self.state: dict[str, Any] = {
            "title": title, "notes": notes, "status": "running", "error": None, "data": {}, "points": [], "stages": [],
            "alarms": [], "watched": alarms.watched(), "environment": environment(), "meanings": {}, "outlook": [],
            "begun": datetime.now().isoformat(timespec="seconds"), "seconds": 0.0,
        }  # fmt: skip
        self.begun = time.monotonic()
        self.told: dict[int, int] = {}  # iteration -> how many of its steps the logger knows
        self.start: dict[str, Any] | None = None
        self.starts: dict[str, dict[str, Any]] = {}
        self.log = logger.begin(folder, title, notes)
        self.write()

    def write(self) -> None:
        own = ("tokens", "padding_share", "prefix_saving")
        self.state["stages"] = [
            {"name": s.name, "seconds": s.seconds, "peak_gib": s.peak_gib, "hit": s.hit}
            | {name: s.facts[name] for name in own if name in s.facts}
            for s in self.store.log
        ]
        self.state["seconds"] = round(time.monotonic() - self.begun, 1)
        write_json(self.folder / RUN, masked(self.state))

    def feedback(self, iteration: int, stage: Stage) -> None:
        """The log that this iteration and those after it learn from."""
        folder, counts = self.folder, stage.facts["counts"]
        if iteration > 1:
            folder, counts = folder / f"iteration_{iteration}", {f"{name}, iteration {iteration}": n for name, n in counts.items()}
        link(stage.path / "records.jsonl", folder / "records.jsonl")
        link(stage.path / "quarantine.jsonl", folder / "quarantine.jsonl")
        self.state["data"] |= counts
        self.store.say_found()
        say("Feedback: " + ", ".join(f"{value} {name}" for name, value in stage.facts["counts"].items()))
        for row in stage.facts["set_aside"]:
            say("  set aside: " + ", ".join(f"{name} {value}" for name, value in row.items()))
        self.write()

    def expects(self, meanings: dict[str, dict[str, str]], outlook: list[str]) -> None:
        """What the metrics of each evaluation mean, and what the evaluations can show at all: said before anything is computed."""
        self.state |= {"meanings": {metric: text for of in meanings.values() for metric, text in of.items()}, "outlook": outlook}
        for line in outlook:
            say(f"  {line}")
        self.write()

    def leaks(self, rows: list[dict[str, Any]]) -> None:
        """Training records whose prompts the evaluation asks."""
        write_jsonl(self.folder / "leakage.jsonl", rows)
        self.state["data"]["training records with prompts of the evaluation"] = len(rows)
        self.write()

    def sampled(self, iteration: int, made: Stage, pairs: list[Pair], log: list[Record]) -> None:
        """Looks at the pairs before anything is trained on them; `log`: the records that they were made from."""
        found = self.alarms.in_sampling(made.facts["counts"]) | self.alarms.in_pairs(pairs, log)
        self.raise_alarms(iteration, "sampling", found)

    def watch(self, iteration: int, history: list[dict[str, float]]) -> None:
        """Gives the logger the steps that it does not have yet, and looks at the training so far."""
        if new := history[self.told.get(iteration, 0) :]:
            self.log.steps(iteration, new)
            self.told[iteration] = len(history)
        self.raise_alarms(iteration, f"training, step {len(history)}", self.alarms.in_training(history))

    def raise_alarms(self, iteration: int, during: str, found: dict[str, str]) -> None:
        """Says each alarm once an iteration; ends the run if that is what the settings want."""
        known = {(alarm["iteration"], alarm["name"]) for alarm in self.state["alarms"]}
        for name, text in found.items():
            if (iteration, name) in known:
                continue
            self.state["alarms"].append({"iteration": iteration, "during": during, "name": name, "text": text})
            self.log.alarm(iteration, during, name, text)
            say(f"  ALARM ({name}) in iteration {iteration}, {during}: {text}")
            self.write()
            if self.alarms.action == "stop":
                raise UserError(
                    f"Stopped by the alarm {name} in iteration {iteration}, {during}: {text}. What is finished is kept; "
                    f"alarms.action=warn or alarms.{name}=null goes on."
                )

    def trained(self, iteration: int, made: Stage, trained: Stage, pairs: list[Pair]) -> None:
        folder = self.folder / f"iteration_{iteration}"
        link(made.path / "pairs.jsonl", folder / "pairs.jsonl")
        for name in ("policy", "steps.jsonl"):
            link(trained.path / name, folder / name)
        steps = read_jsonl(trained.path / "steps.jsonl")
        for done in range(1, len(steps) + 1):  # again for those that were found in the store
            self.watch(iteration, steps[:done])
        self.log.samples(iteration, "pairs", [asdict(pair) for pair in pairs[:NUM_SAMPLES]])
        counts = made.facts["counts"]
        self.state["points"].append(
            {
                "iteration": iteration,
                "distinct prompts": len({pair.record for pair in pairs}),
                "pairs": trained.facts["pairs"],
                "steps": trained.facts["steps"],
                "generated tokens": made.facts["drawn"]["tokens"],
                "prompts too long": made.facts["drawn"]["prompts_too_long"],
                "counts": counts,
                "first step": {name: steps[0][name] for name in ("dpo", "margin")},
            }
        )
        rules = ", ".join(f"{value} {NOTED[name]}" for name, value in counts.items() if value and name in NOTED)
        done = trained.facts
        self.store.say_found()
        say(f"  {done['pairs']} pairs of {counts['seen']} candidates ({rules or 'none dropped'}), {done['steps']} steps")
        self.write()

    def scored(self, iteration: int, name: str, results: dict[str, Stage]) -> None:
        """A policy's evaluations, by name; the first one's headline is the run's."""
        folder = self.folder / (f"iteration_{iteration}" if name != "warm start" else "warm_start")
        scores: dict[str, dict[str, Any]] = {}
        for evaluation, stage in results.items():
            for file in sorted(stage.path.glob("*.json*")):
                if file.name != "manifest.json":
                    link(file, folder / evaluation / file.name)
            scores[evaluation] = json.loads((stage.path / "scores.json").read_text(encoding="utf-8"))
        first = next(iter(scores))
        self.log.scores(iteration, scores[first]["metrics"])
        if (replies := folder / first / "replies.jsonl").is_file():
            self.log.samples(iteration, "replies" if name != "warm start" else "warm start", read_jsonl(replies)[:NUM_SAMPLES])
        if not self.state["points"] or "scores" in self.state["points"][-1]:
            self.state["points"].append({"iteration": iteration})
        self.state["points"][-1] |= {"name": name, "scores": scores}
        self.starts = self.starts or scores
        self.start = self.starts[first]
        self.store.say_found()
        if scores is self.starts and (meaning := self.state["meanings"].get(scores[first]["headline"])):
            say(f"  {scores[first]['headline']}: {meaning}.")
        say(f"{name}: {self._headline(scores[first])}")
        self.write()
        found: dict[str, str] = {}
        for evaluation, of in scores.items():
            for alarm, text in self.alarms.in_evaluation(of["metrics"], self.starts[evaluation]["metrics"]).items():
                said = f"{evaluation}: {text}" if len(scores) > 1 else text
                found[alarm] = f"{found[alarm]}; {said}" if alarm in found else said
        self.raise_alarms(iteration, "evaluation", found)

    def _headline(self, scores: dict[str, Any]) -> str:
        name = scores["headline"]
        values, conversations = scores["metrics"][name]["per_item"], scores.get("conversations", {})
        now = level([values], conversations)
        text = f"{name} {show(now, 3)} ({now.over})"
        if scores is not self.start and self.start is not None:
            gain = paired([values], [self.start["metrics"][name]["per_item"]], conversations)
            text += f", against the start model {show_difference(gain, 3)}"
        return text

    def finish(self, error: BaseException | None) -> None:
        stopped = isinstance(error, (stop.Stopped, KeyboardInterrupt))
        self.state["status"] = "finished" if error is None else "stopped" if stopped else "failed"
        self.state["error"] = None if error is None or stopped else f"{type(error).__name__}: {error}"
        self.write()
        self.log.summary(verdict.in_numbers(first_evaluation(self.state)))
        self.log.end(failed=error is not None)


def link(target: Path, name: Path) -> None:
    """A relative symbolic link, replaced if it is there."""
    name.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(name, "link")
    temporary.symlink_to(os.path.relpath(target.resolve(), name.parent.resolve()))
    os.replace(temporary, name)
