"""The HTML report of a run or of a study: one self-contained file, built from the run folders, even while a run is going.

The folders may come from somebody else: see foreign.py. The report shows everything that can be read, and says what can't be.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drift.console import say
from drift.examples.filters import NOTED
from drift.records import Record, write_text
from drift.report import advice, agreed, card, dynamics, page, plots, published, rated, results, samples, settings, tables, verdict
from drift.report.compare import compare
from drift.report.foreign import SETTINGS, Reader, need_members
from drift.report.members import (
    conversation_of,
    further,
    grouped,
    headline,
    last_gains,
    meanings,
    per_item,
    scored_names,
    seeds_of,
    seen_by,
    states_of,
)
from drift.report.state import RUN, Member, RunState, SpentStage
from drift.statistics import Interval, level

CONTAIN_REPLIES = ("feedback", "examples", "evaluate")  # stages whose seconds include those of the replies that they draw
Runs = Mapping[str, Sequence[RunState]]


def report_of(folder: Path) -> Path:
    """Writes the report of a run's folder, or of a sweep's folder."""
    return run_report(folder) if (folder / RUN).exists() else study_report(folder)


def run_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder."""
    reader = Reader()
    members = need_members(reader, folder)
    return _render(folder, heading([member.state for member in members]), members, reader)


def study_report(folder: Path) -> Path:
    """Writes `report.html`, `results.csv` and `comparisons.csv` into a sweep's folder, from all runs that have begun."""
    reader = Reader()
    members = need_members(reader, folder)
    results.write(folder, members)
    return _render(folder, heading([member.state for member in members]), members, reader)


def heading(states: Sequence[RunState]) -> str:
    """'study of 6 runs: drift, spin on records (log.jsonl) with smollm2-135m, 2026-11-26 12:00'."""

    def values(name: str, field: str) -> str:
        return ", ".join(dict.fromkeys(vars(state)[field][name] for state in states if name in vars(state)[field]))

    methods, data, files = values("method", "title"), values("data", "notes"), values("data.path", "title")
    text = f"{methods} run" if len(states) == 1 else f"study of {len(states)} runs: {methods}"
    text += f" on {data}" + (f" ({Path(files).name})" if files else "") if data else ""
    text += f" with {model}" if (model := values("model", "notes")) else ""
    begun = min((state.begun for state in states if state.begun), default="")
    return text + (f", {begun[:16].replace('T', ' ')}" if begun else "")


def _render(folder: Path, title: str, members: list[Member], reader: Reader) -> Path:
    groups = grouped(members)
    runs, states = states_of(groups), [member.state for member in members]
    folders = {label: [member.folder for member in group] for label, group in groups.items()}
    evaluated = {label: group for label, group in runs.items() if scored_names(group)}
    compared = compare(evaluated)
    ratings = rated.rows(groups, reader)
    steps = {label: [reader.steps(run_folder) for run_folder in group] for label, group in folders.items()}
    text = page.render(
        "report.html.j2",
        title=title,
        verdict=verdict.sentences(evaluated, compared, states),
        outlook=list(dict.fromkeys(line for state in states for line in state.outlook)),
        cost=advice.cost(states),
        next_steps=advice.next_steps(groups, compared),
        gone=samples.gone(member.folder for member in members),
        removed=samples.removed(states),
        noted=NOTED,
        comparisons=tables.comparisons(compared),
        judges=agreed.rows(groups, reader),
        judged=agreed.meanings(groups, reader),
        published=published.sections(folder, members, reader),
        alarms=tables.alarms(runs),
        alarms_on=tables.alarms_on(states),
        failed=tables.failed(runs),
        dynamics=plots.dynamics(steps),
        training_notes=dynamics.notes(steps),
        signal=tables.signal(steps),
        differing=settings.differing(folders, reader),
        members=_members(members, reader),
        samples=samples.items(side_by_side(groups), reader),
        further=[_further(evaluated, name) for name in further(states)],
        rated=rated.table(ratings),
        ratings=rated.meanings(ratings),
        problems=list(reader.problems.values()),
        **_scores(evaluated),
    )
    for line in reader.problems.values():
        say(line)
    report = folder / "report.html"
    write_text(report, text)
    return report


def _further(evaluated: Runs, name: str) -> dict[str, Any]:
    """The section of an evaluation that is no headline."""
    only = _only(evaluated, name)
    return {"name": name, "comparisons": tables.comparisons(compare(only))} | _scores(only)


def _only(evaluated: Runs, evaluation: str) -> Runs:
    """The groups that have scores of this evaluation, as if it were the only one."""
    views = {label: seen_by(states, evaluation) for label, states in evaluated.items()}
    return {label: states for label, states in views.items() if scored_names(states)}


def _scores(evaluated: Runs) -> dict[str, Any]:
    """An evaluation's headline by iteration, and two tables with a row per policy (see tables.by_policy)."""
    main = headline(next(iter(evaluated.values()))) if evaluated else "score"
    lines = {label: line for label, line in _lines(evaluated, main).items() if line}
    changes = [change for change in last_gains(evaluated).values() if change is not None]
    few = bool(changes) and all(change.few for change in changes)
    scores, trained = tables.by_policy(evaluated)
    picture = plots.by_iteration(lines, main) if lines and not few else ""
    known = meanings([state for group in evaluated.values() for state in group])
    return {"headline": main, "plot": picture, "few": few, "scores": scores, "trained": trained, "meanings": known}


def _lines(evaluated: Runs, main: str) -> dict[str, list[tuple[str, Interval]]]:
    """Group -> the headline of every policy, for the groups that have this headline."""
    return {
        label: [
            (name, level(values, conversation_of(members)))
            for name in scored_names(members)
            if (values := per_item(members, name, main))
        ]
        for label, members in evaluated.items()
        if headline(members) == main
    }


def side_by_side(groups: Mapping[str, Sequence[Member]]) -> dict[str, Member]:
    """A run of every group for the sample browser: all of the same seed, the one with the most evaluated policies."""
    by_seed = {label: {seeds_of(member.state): member for member in group} for label, group in groups.items()}
    seeds = dict.fromkeys(seed for group in by_seed.values() for seed in group)
    best = max(seeds, key=lambda seed: sum(_num_evaluated(group[seed]) for group in by_seed.values() if seed in group))
    return {label: group.get(best) or max(group.values(), key=_num_evaluated) for label, group in by_seed.items()}


def _num_evaluated(member: Member) -> int:
    return len(scored_names([member.state]))


def _members(members: Sequence[Member], reader: Reader) -> list[dict[str, Any]]:
    """The section of each run on the page."""
    logs = {reader.find(member.folder, "records.jsonl"): member.folder for member in members}  # runs may share a log
    cards = {log: _cards(reader.records(folder, "records.jsonl")) for log, folder in logs.items()}
    return [_member(member, cards[reader.find(member.folder, "records.jsonl")], reader) for member in members]


def _member(member: Member, cards: list[Any], reader: Reader) -> dict[str, Any]:
    """The section of one run. If its state is "running", it may have been killed: only the time of its last write is known."""
    written = datetime.fromtimestamp((member.folder / RUN).stat().st_mtime)
    status = {
        "running": f"running, or killed: last written {written:%Y-%m-%d %H:%M}",
        "stopped": f"stopped by hand, {written:%Y-%m-%d %H:%M}: the same command resumes it, in a new folder",
    }.get(member.state.status, member.state.status)
    section = {"state": member.state, "status": status, "seconds": _seconds(member.state.stages), "cards": cards}
    return section | {"feedback": _feedback(member.state), "config": reader.text(member.folder, SETTINGS)}


def _feedback(state: RunState) -> dict[str, dict[str, Any]]:
    """The counts of the first log (""), and of the logs that were collected later (", iteration 2")."""
    counts: dict[str, dict[str, Any]] = {}
    for name, value in state.data.items():
        count, later, iteration = name.rpartition(", iteration ")
        counts.setdefault(later + iteration if later else "", {})[count or name] = value
    return counts


def _seconds(all_stages: Sequence[SpentStage]) -> list[dict[str, Any]]:
    """The time that this run computed, by kind of stage. Some kinds include their replies, which also have a row of their own."""
    rows = []
    for name in dict.fromkeys(stage.name for stage in all_stages):
        stages = [stage for stage in all_stages if stage.name == name]
        fresh = [stage for stage in stages if not stage.hit]
        seconds = sum(stage.seconds for stage in fresh)
        row = {"stage": name + (" (with their replies)" if name in CONTAIN_REPLIES else "")}
        row |= {"computed": len(fresh), "found": len(stages) - len(fresh), "seconds": round(seconds, 1)}
        tokens = sum(stage.tokens or 0 for stage in fresh)
        row["tokens/s"] = round(tokens / seconds) if tokens and seconds and name not in CONTAIN_REPLIES else "-"
        row["padding"] = _mean_share([stage.padding_share for stage in fresh])
        row["saved by sharing prompts"] = _mean_share([stage.prefix_saving for stage in fresh])
        row["peak memory"] = f"{max(stage.peak_gib for stage in fresh):.1f} GiB" if fresh else "-"
        rows.append(row)
    return rows


def _mean_share(shares: Sequence[float | None]) -> str:
    """The mean of the known ones."""
    known = [share for share in shares if share is not None]
    return f"{sum(known) / len(known):.0%}" if known else "-"


def _cards(records: list[Record]) -> list[Any]:
    """The data card, if the records come from a log."""
    return card.card(records) if records and records[0].provenance else []
