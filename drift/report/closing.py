"""The last lines of a run or of a sweep on the console: table, verdict, cost, next steps, the path of the report."""

from pathlib import Path

from drift.console import say, table
from drift.report import advice, tables, verdict
from drift.report.compare import compare
from drift.report.foreign import members_of
from drift.report.members import grouped, scored_names, states_of


def run(folder: Path, report: Path) -> None:
    """After a single run."""
    summary(folder, brief=False)
    say(f"Report: {shown(report)}")


def member(folder: Path) -> None:
    """After one run of a sweep."""
    summary(folder, brief=True)


def sweep(folder: Path) -> None:
    """After a sweep, on all runs that have begun."""
    if not members_of(folder):
        return
    summary(folder, brief=False)
    say(f"Numbers: {shown(folder / 'results.csv')}, {shown(folder / 'comparisons.csv')}")
    say(f"Report: {shown(folder / 'report.html')}")


def summary(folder: Path, *, brief: bool) -> None:
    """`brief`: only the table."""
    members = members_of(folder)
    groups, runs = grouped(members), [member.state for member in members]
    states = states_of(groups)
    evaluated = {label: group for label, group in states.items() if scored_names(group)}
    rows = [row for label, group in evaluated.items() for row in tables.rows(label, group)]
    if not rows:
        return
    compared = compare(evaluated)
    say("")
    columns = [name for name in rows[0] if name not in tables.COSTS][:4]
    table([{name: row.get(name, "-") for name in columns if name != "run" or len(groups) > 1} for row in rows])
    if brief:
        return
    for line in verdict.sentences(evaluated, compared, runs):
        say(f"Verdict: {line}")
    for line in (advice.cost(runs), *(f"Next: {line}" for line in advice.next_steps(groups, compared))):
        say(line)


def shown(path: Path) -> str:
    """The path as a user would type it: relative if it is below the working directory, otherwise absolute."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
