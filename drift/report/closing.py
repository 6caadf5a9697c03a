"""The last lines of a run or of a sweep on the console: table, verdict, cost, next steps, the path of the report."""

from pathlib import Path

from drift.console import say, table
from drift.report import advice, tables, verdict
from drift.report.compare import compare
from drift.report.foreign import members_of
from drift.report.members import grouped, scored_names, states_of


def run(folder: Path, report: Path) -> None:
    """Of a single run."""
    summary(folder, brief=False)
    say(f"Report: {shown(report)}")


def member(folder: Path) -> None:
    """Of one member of a sweep."""
    summary(folder, brief=True)


def sweep(folder: Path) -> None:
    """Of all members that have begun."""
    if not members_of(folder):
        return
    summary(folder, brief=False)
    say(f"Numbers: {shown(folder / 'results.csv')}, {shown(folder / 'comparisons.csv')}")
    say(f"Report: {shown(folder / 'report.html')}")


def summary(folder: Path, *, brief: bool) -> None:
    """`brief`: the table alone."""
    together = grouped(members_of(folder))
    states = states_of(together)
    usable = {label: group for label, group in states.items() if scored_names(group)}
    found = [row for label, group in usable.items() for row in tables.rows(label, group)]
    if not found:
        return
    compared = compare(usable)
    say("")
    columns = [name for name in found[0] if name not in tables.COSTS][:4]
    table([{name: row.get(name, "-") for name in columns if name != "run" or len(together) > 1} for row in found])
    if brief:
        return
    runs = [state for group in states.values() for state in group]
    for line in verdict.sentences(usable, compared, runs):
        say(f"Verdict: {line}")
    for line in (advice.cost(runs), *(f"Next: {line}" for line in advice.next_steps(together, compared))):
        say(line)


def shown(path: Path) -> str:
    """As one would type it here: relative if it lies below the working directory, else absolute."""
    whole, here = path.absolute(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
