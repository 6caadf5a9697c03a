"""What a report says in sentences, above everything else."""

from typing import Any

from drift.report import tables
from drift.report.statistics import holm


def against_start(grouped: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A sentence per group: the last policy that two of its seeds have against the start model, corrected for all groups."""
    names = {label: tables.common_name(members) for label, members in grouped.items()}
    gains = {label: tables.gain(grouped[label], name) for label, name in names.items() if name is not None}
    corrected = holm([1.0 if gain is None or gain.p is None else gain.p for gain in gains.values()])
    found = []
    for label, members in grouped.items():
        if (gain := gains.get(label)) is None:
            some = max((len(tables.having(members, name)) for name in tables.scored_names(members)[1:]), default=0)
            known = f"only {some} of {len(members)} runs has" if some else "no run has"
            found.append(f"{label}: {known} evaluated a trained policy so far.")
            continue
        main, name, p = tables.headline(members), names[label], corrected[list(gains).index(label)]
        said = f"({tables.show(gain, 3, sign=True)}, {gain.over})"
        if not gain.known:
            found.append(f"{label}: after {name}, {main} is {tables.NO_NUMBER}: weights or scores broke, and nothing can be said.")
        elif gain.separable and p < 0.05:
            found.append(
                f"{label}: after {name}, {main} is {'better' if gain.mean > 0 else 'worse'} than the start model's {said}."
            )
        else:
            because = f" once corrected for {len(gains)} groups" if gain.separable else ""
            found.append(f"{label}: after {name}, {main} is not separable from the start model's{because} {said}.")
    return found


def between(comparisons: tables.Table) -> list[str]:
    """A sentence on who is ahead of whom, where anyone is compared."""
    if not comparisons:
        return []
    found = [
        f"{row['comparison'].replace(' - ', ' and ')}: {row['verdict']}"
        + (f" (steps: {row['steps']})" if "against" in row["steps"] else "")
        for row in comparisons
        if row["verdict"] != tables.NOT_SEPARABLE
    ]
    if not found:
        return ["Between them: no difference is separable."]
    others = " Of the others compared, none is separable." if len(found) < len(comparisons) else ""
    alone = " This is about these policies; a word on methods needs several seeds." if "prompts" in comparisons[0]["over"] else ""
    return [f"Between them: {'; '.join(found)}.{others}{alone}"]


def sounded(states: list[dict[str, Any]]) -> list[str]:
    """A sentence on alarms, where one sounded."""
    count = sum(bool(state.get("alarms")) for state in states)
    return [f"Alarms sounded in {count} of {len(states)} runs; see below."] if count else []
