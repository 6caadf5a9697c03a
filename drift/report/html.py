"""The HTML report of a run or of a study: one self-contained file, built from what is on disk (also of a run still going).

What is on disk may be somebody else's: see foreign.py. The report holds all that can be read, and says what could not.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drift.console import say
from drift.examples.filters import NOTED
from drift.records import Record, write_text
from drift.report import advice, card, dynamics, page, plots, results, samples, settings, tables, verdict
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
from drift.report.statistics import Interval, level

CONTAIN_REPLIES = ("feedback", "examples", "evaluate")  # kinds of stage in whose seconds those of their replies are
Runs = Mapping[str, Sequence[RunState]]


def report_of(folder: Path) -> Path:
    """The report of a run's folder or of a sweep's, whichever it is."""
    return run_report(folder) if (folder / RUN).exists() else study_report(folder)


def run_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder."""
    reader = Reader()
    members = need_members(reader, folder)
    return _render(folder, heading([member.state for member in members]), members, reader)


def study_report(folder: Path) -> Path:
    """Writes `report.html`, `results.csv` and `comparisons.csv` into a sweep's folder, from all members that have begun."""
    reader = Reader()
    members = need_members(reader, folder)
    results.write(folder, members)
    return _render(folder, heading([member.state for member in members]), members, reader)


def heading(states: Sequence[RunState]) -> str:
    """'study of 6 runs: drift, spin on records (log.jsonl) with smollm2-135m, 2026-11-26 12:00'."""

    def of(name: str, kind: str) -> str:
        return ", ".join(dict.fromkeys(vars(state)[kind][name] for state in states if name in vars(state)[kind]))

    methods, data, files = of("method", "title"), of("data", "notes"), of("data.path", "title")
    found = f"{methods} run" if len(states) == 1 else f"study of {len(states)} runs: {methods}"
    found += f" on {data}" + (f" ({Path(files).name})" if files else "") if data else ""
    found += f" with {model}" if (model := of("model", "notes")) else ""
    begun = min((state.begun for state in states if state.begun), default="")
    return found + (f", {begun[:16].replace('T', ' ')}" if begun else "")


def _render(folder: Path, title: str, members: list[Member], reader: Reader) -> Path:
    together = grouped(members)
    runs, states = states_of(together), [member.state for member in members]
    places = {label: [member.folder for member in group] for label, group in together.items()}
    usable = {label: group for label, group in runs.items() if scored_names(group)}
    compared = compare(usable)
    steps = {label: [reader.steps(place) for place in group] for label, group in places.items()}
    text = page.render(
        "report.html.j2",
        title=title,
        verdict=verdict.sentences(usable, compared, states),
        outlook=list(dict.fromkeys(line for state in states for line in state.outlook)),
        cost=advice.cost(states),
        next_steps=advice.next_steps(together, compared),
        gone=samples.gone(member.folder for member in members),
        noted=NOTED,
        comparisons=tables.comparisons(compared),
        alarms=tables.alarms(runs),
        watched=tables.watched(states),
        failed=tables.failed(runs),
        dynamics=plots.dynamics(steps),
        training_notes=dynamics.notes(steps),
        signal=tables.signal(steps),
        differing=settings.differing(places, reader),
        members=_described(members, reader),
        samples=samples.items(_side_by_side(together), reader),
        further=[{"name": name} | _scores(_seen(usable, name)) for name in further(states)],
        odd=list(reader.odd.values()),
        **_scores(usable),
    )
    for line in reader.odd.values():
        say(line)
    report = folder / "report.html"
    write_text(report, text)
    return report


def _seen(usable: Runs, evaluation: str) -> Runs:
    """The groups that have scores of a further evaluation, as it sees them."""
    seen = {label: seen_by(states, evaluation) for label, states in usable.items()}
    return {label: states for label, states in seen.items() if scored_names(states)}


def _scores(usable: Runs) -> dict[str, Any]:
    """An evaluation's headline by iteration, and two tables with a row per policy (see tables.by_policy)."""
    main = headline(next(iter(usable.values()))) if usable else "score"
    lines = _lines(usable, main)
    few = all(change.few for change in last_gains(usable).values() if change is not None)
    scores, trained = tables.by_policy(usable)
    picture = plots.by_iteration(lines, main) if lines and not few else ""
    known = meanings([state for group in usable.values() for state in group])
    return {"headline": main, "plot": picture, "few": few, "scores": scores, "trained": trained, "meanings": known}


def _lines(usable: Runs, main: str) -> dict[str, list[tuple[str, Interval]]]:
    """Group -> the headline of every policy, of those that have that headline."""
    return {
        label: [
            (name, level(found, conversation_of(members)))
            for name in scored_names(members)
            if (found := per_item(members, name, main))
        ]
        for label, members in usable.items()
        if headline(members) == main
    }


def _side_by_side(together: Mapping[str, Sequence[Member]]) -> dict[str, Member]:
    """A run of every group for the sample browser: of the seed with which most groups have evaluated most."""
    by_seed = {label: {seeds_of(member.state): member for member in group} for label, group in together.items()}
    seeds = dict.fromkeys(seed for group in by_seed.values() for seed in group)
    best = max(seeds, key=lambda seed: sum(_evaluated(group[seed]) for group in by_seed.values() if seed in group))
    return {label: group.get(best) or max(group.values(), key=_evaluated) for label, group in by_seed.items()}


def _evaluated(member: Member) -> int:
    return len(scored_names([member.state]))


def _described(members: Sequence[Member], reader: Reader) -> list[dict[str, Any]]:
    """What the page says of each run."""
    logs = {reader.find(member.folder, "records.jsonl"): member.folder for member in members}  # who share the stage share the file
    cards = {log: _cards(reader.records(place, "records.jsonl")) for log, place in logs.items()}
    return [_member(member, cards[reader.find(member.folder, "records.jsonl")], reader) for member in members]


def _member(member: Member, cards: list[Any], reader: Reader) -> dict[str, Any]:
    """Of a run that does not say that it ended, all we know is when it last wrote."""
    written = datetime.fromtimestamp((member.folder / RUN).stat().st_mtime)
    status = {
        "running": f"running, or killed: last written {written:%Y-%m-%d %H:%M}",
        "stopped": f"stopped by hand, {written:%Y-%m-%d %H:%M}: the same command goes on from there, in a folder of its own",
    }.get(member.state.status, member.state.status)
    found = {"state": member.state, "status": status, "seconds": _seconds(member.state.stages), "cards": cards}
    return found | {"feedback": _feedback(member.state), "config": reader.text(member.folder, SETTINGS)}


def _feedback(state: RunState) -> dict[str, dict[str, Any]]:
    """Counts of the first log (""), and of those that were collected later (", iteration 2")."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in state.data.items():
        count, later, iteration = name.rpartition(", iteration ")
        found.setdefault(later + iteration if later else "", {})[count or name] = value
    return found


def _seconds(asked: Sequence[SpentStage]) -> list[dict[str, Any]]:
    """Time by kind of stage: of what was computed in this run. Some kinds contain replies, which also have a row of their own."""
    found = []
    for name in dict.fromkeys(stage.name for stage in asked):
        stages = [stage for stage in asked if stage.name == name]
        fresh = [stage for stage in stages if not stage.hit]
        seconds = sum(stage.seconds for stage in fresh)
        row = {"stage": name + (" (with their replies)" if name in CONTAIN_REPLIES else "")}
        row |= {"computed": len(fresh), "found": len(stages) - len(fresh), "seconds": round(seconds, 1)}
        tokens = sum(stage.tokens or 0 for stage in fresh)
        row["tokens/s"] = round(tokens / seconds) if tokens and seconds and name not in CONTAIN_REPLIES else "-"
        row["padding"] = _mean_share([stage.padding_share for stage in fresh])
        row["saved by sharing prompts"] = _mean_share([stage.prefix_saving for stage in fresh])
        row["peak memory"] = f"{max(stage.peak_gib for stage in fresh):.1f} GiB" if fresh else "-"
        found.append(row)
    return found


def _mean_share(shares: Sequence[float | None]) -> str:
    """Of those that are known."""
    known = [share for share in shares if share is not None]
    return f"{sum(known) / len(known):.0%}" if known else "-"


def _cards(records: list[Record]) -> list[Any]:
    """The data card, where the records come from a log."""
    return card.card(records) if records and records[0].provenance else []
