"""The conclusions of a report in sentences, which come first on the page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from drift.report.compare import NO_DIFFERENCE, SAME_PROMPTS, TOO_FEW, Comparison
from drift.report.members import common_name, having, headline, last_gains, repeated, scored_names, unnamed
from drift.report.state import RunState
from drift.report.tables import against, show, show_p
from drift.statistics import Difference, holm


def sentences(grouped: Mapping[str, Sequence[RunState]], compared: Sequence[Comparison], states: Sequence[RunState]) -> list[str]:
    """All of them, in the order of a page."""
    return [
        *unmatched(compared),
        *uncompared(grouped, compared),
        *against_start(grouped),
        *between(compared),
        *not_alone(states),
        *repeats(states),
        *alarms(states),
    ]


def against_start(grouped: Mapping[str, Sequence[RunState]]) -> list[str]:
    """A sentence per group on its last policy (that at least two seeds have) against the start model, corrected for all groups."""
    gains = last_gains(grouped)
    p, lines = corrected(gains), []
    for label, members in grouped.items():
        if (change := gains.get(label)) is None:
            some = max((len(having(members, name)) for name in scored_names(members)[1:]), default=0)
            known = f"only {some} of {len(members)} runs has" if some else "no run has"
            lines.append(f"{label}: {known} evaluated a trained policy so far.")
        else:
            conclusion = _conclusion(headline(members), change, p.get(label), len(p))
            lines.append(f"{label}: after {common_name(members)}, {conclusion}")
    return lines


def corrected(gains: Mapping[str, Difference | None]) -> dict[str, float]:
    """Group -> the p of its gain, corrected for all groups; without those that were not tested."""
    tested = {label: change.p for label, change in gains.items() if change is not None and change.p is not None and not change.few}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def established(gains: Mapping[str, Difference | None]) -> dict[str, Difference]:
    """The gains that are significant after this correction."""
    p = corrected(gains)
    return {label: change for label, change in gains.items() if change is not None and change.significant and p[label] < 0.05}


def _conclusion(metric: str, change: Difference, corrected: float | None, family: int) -> str:
    """The end of such a sentence. `corrected`: p corrected for all `family` groups."""
    if not math.isfinite(change.mean):
        return f"{metric} is not a number: the policy is broken."
    if change.few:
        return f"{metric} is {change.mean:+.3f} against the start model's: {change.over}, too few to tell."
    together = f", {show_p(corrected)} corrected for all {family} groups" if family > 1 and corrected is not None else ""
    numbers = f"({show(change, 3, sign=True)}, p {show_p(change.p)}{together}; {change.over})"
    if change.significant and corrected is not None and corrected < 0.05:
        return f"{metric} is {'better' if change.mean > 0 else 'worse'} than the start model's {numbers}."
    because = f" once corrected for {family} groups" if change.significant else ""
    return f"{metric} shows {NO_DIFFERENCE} from the start model's{because} {numbers}."


def in_numbers(state: RunState) -> dict[str, Any]:
    """A run's gain over the start model, and the sentence on it; empty if no trained policy is evaluated yet."""
    change = last_gains({"": [state]}).get("")
    if change is None:
        return {}
    (sentence,) = against_start({state.title["method"]: [state]})
    return {"gain": change.mean, "gain low": change.low, "gain high": change.high, "gain p": change.p, "verdict": sentence}


def unmatched(compared: Sequence[Comparison]) -> list[str]:
    """A sentence on the groups that are not ranked, because they trained on different amounts, and how to match them."""
    not_matched = [this for this in compared if not this.matched]
    if not not_matched:
        return []
    sides = {side.label: side for this in not_matched for side in (this.one, this.other)}
    amounts = "; ".join(
        f"{label} on {against(side.examples, side.examples)} examples in {against(side.steps, side.steps)} steps"
        for label, side in sides.items()
    )
    why = f"NOT RANKED, because they did not train on the same amount: {amounts}."
    return [f"{why} To match them, run all with {matching(compared)}."]


def matching(compared: Sequence[Comparison]) -> str:
    """The settings with which the groups that are not ranked would train on the same amount."""
    sides = [side for this in compared if not this.matched for side in (this.one, this.other)]
    if len({side.examples for side in sides}) > 1:
        return f"examples_per_iteration={min(side.fewest for side in sides)}"
    return "the same train.examples_per_step, train.epochs and warmup_epochs"


def uncompared(grouped: Mapping[str, Sequence[RunState]], compared: Sequence[Comparison]) -> list[str]:
    """A sentence on the groups with a trained policy that could be compared with no other group."""
    trained = [label for label, members in grouped.items() if len(scored_names(members)) > 1]
    named = {side.label for this in compared for side in (this.one, this.other)}
    alone = [label for label in trained if label not in named]
    if len(trained) < 2 or not alone:
        return []
    return [
        f"NOT COMPARED with another group: {', '.join(alone)}. Groups need seeds in common, the same first evaluation, and "
        f"{SAME_PROMPTS:.0%} of its prompts in common: the same data.seed and evaluation settings."
    ]


def between(compared: Sequence[Comparison]) -> list[str]:
    """A sentence on which group is better than which; none if no groups match."""
    matched = [this for this in compared if this.matched]
    groups = "Between groups" if len(matched) == len(compared) else "Between the groups that match"
    if not matched:
        return []
    decided = [
        f"{this.one.label} and {this.other.label}: {this.verdict}"
        for this in matched
        if this.verdict not in (NO_DIFFERENCE, TOO_FEW)
    ]
    if not decided:
        few = all(this.verdict == TOO_FEW for this in matched)
        return [f"{groups}: {matched[0].gap.over}, too few to tell." if few else f"{groups}: {NO_DIFFERENCE}."]
    others = " The other comparisons show no significant difference." if len(decided) < len(matched) else ""
    one_seed = "prompt" in matched[0].gap.over
    alone = " This compares single policies. To compare methods, run several seeds." if one_seed else ""
    return [f"{groups}: {'; '.join(decided)}.{others}{alone}"]


def not_alone(states: Sequence[RunState]) -> list[str]:
    """A sentence on what differs between the methods beside themselves."""
    names = unnamed(states)
    return [f"Not only the methods differ: so do {', '.join(names)} (settings that differ, in the report)."] if names else []


def repeats(states: Sequence[RunState]) -> list[str]:
    """A sentence if runs were repeated."""
    if not (count := repeated(states)):
        return []
    some = "one repeats" if count == 1 else f"{count} repeat"
    return [f"Of {len(states)} runs, {some} the settings and seeds of another one, which says nothing new: they count once."]


def alarms(states: Sequence[RunState]) -> list[str]:
    """A sentence if alarms were raised."""
    count = sum(bool(state.alarms) for state in states)
    return [f"Alarms were raised in {count} of {len(states)} runs."] if count else []
