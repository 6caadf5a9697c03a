"""The HTML report of a run or of a study: one self-contained file, built from what is on disk (also of a run still going).

What is on disk may be somebody else's: see foreign.py. The report holds all that can be read, and says what could not.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from drift.console import say
from drift.examples.filters import NOTED
from drift.records import Record, write_text
from drift.report import advice, card, page, plots, results, samples, settings, tables, verdict
from drift.report.compare import compare
from drift.report.foreign import RUN, SETTINGS, Reader, need_members
from drift.report.foreign import members_of as members_of  # for those who ask the report
from drift.report.members import conversation_of, groups, headline, last_gains, meanings, per_item, scored_names, seeds_of
from drift.report.statistics import Interval, level

CONTAIN_REPLIES = ("feedback", "pairs", "evaluate")  # kinds of stage in whose seconds those of their replies are


def report_of(folder: Path) -> Path:
    """The report of a run's folder or of a sweep's, whichever it is."""
    return run_report(folder) if (folder / RUN).exists() else study_report(folder)


def run_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder."""
    reader = Reader()
    members = need_members(reader, folder)
    return _render(folder, heading(list(members.values())), members, reader)


def study_report(folder: Path) -> Path:
    """Writes `report.html`, `results.csv` and `comparisons.csv` into a sweep's folder, from all members that have begun."""
    reader = Reader()
    members = need_members(reader, folder)
    results.write(folder, members)
    return _render(folder, heading(list(members.values())), members, reader)


def heading(states: list[dict[str, Any]]) -> str:
    """'study of 6 runs: drift, spin on records (log.jsonl) with smollm2-135m, 2026-11-26 12:00'."""

    def of(name: str, kind: str) -> str:
        return ", ".join(dict.fromkeys(state[kind][name] for state in states if name in state[kind]))

    methods, data, files = of("method", "title"), of("data", "notes"), of("data.path", "title")
    found = f"{methods} run" if len(states) == 1 else f"study of {len(states)} runs: {methods}"
    found += f" on {data}" + (f" ({Path(files).name})" if files else "") if data else ""
    found += f" with {model}" if (model := of("model", "notes")) else ""
    begun = min((state["begun"] for state in states if "begun" in state), default="")
    return found + (f", {begun[:16].replace('T', ' ')}" if begun else "")


def places_of(together: dict[str, list[dict[str, Any]]], members: dict[Path, dict[str, Any]]) -> dict[str, list[Path]]:
    """Group -> the folders of its runs."""
    return {
        label: [place for place, state in members.items() if any(state is other for other in group)]
        for label, group in together.items()
    }


def _render(folder: Path, title: str, members: dict[Path, dict[str, Any]], reader: Reader) -> Path:
    states = list(members.values())
    together = groups(states)
    grouped = places_of(together, members)
    logs = {reader.find(place, "records.jsonl"): place for place in members}  # members that share the stage share the file
    cards = {log: _cards(reader.records(place, "records.jsonl")) for log, place in logs.items()}
    usable = {label: members for label, members in together.items() if scored_names(members)}
    main = headline(next(iter(usable.values()))) if usable else "score"
    compared = compare(usable)
    steps = {label: [reader.steps(place) for place in places] for label, places in grouped.items()}
    lines = _lines(usable, main)
    few = all(change.few for change in last_gains(usable).values() if change is not None)
    differing, shown = settings.differing(grouped, reader), samples.items(_side_by_side(grouped, members), reader)
    described = [_member(place, state, cards[reader.find(place, "records.jsonl")], reader) for place, state in members.items()]
    text = page.render(
        "report.html.j2",
        title=title,
        headline=main,
        verdict=verdict.sentences(usable, compared, states),
        outlook=list(dict.fromkeys(line for state in states for line in state.get("outlook", []))),
        cost=advice.cost(states),
        next_steps=advice.next_steps(together, grouped, compared),
        gone=samples.gone(members),
        meanings=meanings(states),
        noted=NOTED,
        plot=plots.by_iteration(lines, main) if lines and not few else "",
        few=few,
        comparisons=tables.comparisons(compared),
        alarms=tables.alarms(together),
        watched=tables.watched(states),
        failed=tables.failed(together),
        dynamics=plots.dynamics(steps),
        signal=tables.signal(steps),
        differing=differing,
        members=described,
        samples=shown,
        odd=list(reader.odd.values()),
        **_scores(usable),
    )
    for line in reader.odd.values():
        say(line)
    report = folder / "report.html"
    write_text(report, text)
    return report


def _scores(usable: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, str]]]:
    """Two tables with a row per policy: what it scored, and what it was made of. Together they would be too wide for a page."""
    rows = [row for label, members in usable.items() for row in tables.rows(label, members)]
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in tables.COSTS]
    made = [{name: row[name] for name in ("run", "policy", *tables.COSTS)} for row in rows if row["pairs"] != "-"]
    return {"scores": once([{name: row.get(name, "-") for name in columns} for row in rows]), "made": once(made)}


def once(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The name of a group of runs in its first row only: it may be long."""
    names = ["", *(row["run"] for row in rows)]
    return [row | {"run": "" if name == row["run"] else row["run"]} for name, row in zip(names, rows, strict=False)]


def _lines(usable: dict[str, list[dict[str, Any]]], main: str) -> dict[str, list[tuple[str, Interval]]]:
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


def _side_by_side(grouped: dict[str, list[Path]], members: dict[Path, dict[str, Any]]) -> dict[str, Path]:
    """A run of every group for the sample browser: of the seed with which most groups have evaluated most."""
    by_seed = {label: {seeds_of(members[place]): place for place in places} for label, places in grouped.items()}
    policies = {place: len(scored_names([state])) for place, state in members.items()}
    seeds = dict.fromkeys(seed for places in by_seed.values() for seed in places)
    best = max(seeds, key=lambda seed: sum(policies[places[seed]] for places in by_seed.values() if seed in places))
    return {label: places.get(best) or max(places.values(), key=policies.__getitem__) for label, places in by_seed.items()}


def _member(folder: Path, state: dict[str, Any], cards: list[Any], reader: Reader) -> dict[str, Any]:
    """What the page says of one run. Of one that does not say that it ended, all we know is when it last wrote."""
    written = datetime.fromtimestamp((folder / RUN).stat().st_mtime)
    status = {
        "running": f"running, or killed: last written {written:%Y-%m-%d %H:%M}",
        "stopped": f"stopped by hand, {written:%Y-%m-%d %H:%M}: the same command goes on from there, in a folder of its own",
    }.get(state["status"], state["status"])
    found = {"state": state, "status": status, "seconds": _seconds(state), "cards": cards}
    return found | {"config": reader.text(folder, SETTINGS)}


def _seconds(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Time by kind of stage: of what was computed in this run. Some kinds contain replies, which also have a row of their own."""
    found = []
    for name in dict.fromkeys(stage["name"] for stage in state["stages"]):
        stages = [stage for stage in state["stages"] if stage["name"] == name]
        fresh = [stage for stage in stages if not stage["hit"]]
        seconds = sum(stage["seconds"] for stage in fresh)
        row = {"stage": name + (" (with their replies)" if name in CONTAIN_REPLIES else "")}
        row |= {"computed": len(fresh), "found": len(stages) - len(fresh), "seconds": round(seconds, 1)}
        tokens = sum(stage.get("tokens", 0) for stage in fresh)
        row["tokens/s"] = round(tokens / seconds) if tokens and seconds and name not in CONTAIN_REPLIES else "-"
        for share, title in (("padding_share", "padding"), ("prefix_saving", "saved by sharing prompts")):
            values = [stage[share] for stage in fresh if share in stage]
            row[title] = f"{sum(values) / len(values):.0%}" if values else "-"
        row["peak memory"] = f"{max(stage['peak_gib'] for stage in fresh):.1f} GiB" if fresh else "-"
        found.append(row)
    return found


def _cards(records: list[Record]) -> list[Any]:
    """The data card, where the records come from a log."""
    return card.card(records) if records and records[0].provenance else []
