"""What a run cost, and what to do next: a few lines each, made from its state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from drift.alarms import TO_DO
from drift.report.compare import Comparison
from drift.report.foreign import iterations
from drift.report.members import last_gains, seeds_of, states_of
from drift.report.state import Member, RunState
from drift.report.verdict import unmatched

MOST = 3  # lines of advice
INSIDE = ("replies", "logprobs", "judge")  # kinds of stage whose seconds are in those of the stage that asked for them


def cost(states: Sequence[RunState]) -> str:
    """Time, tokens and memory of all runs in a line; "" of runs that computed nothing yet."""
    stages = [stage for state in states for stage in state.stages]
    fresh = [stage for stage in stages if not stage.hit]
    if not stages:
        return ""
    seconds = sum(stage.seconds for stage in fresh if stage.name not in INSIDE)
    sampled, trained = (sum(stage.tokens or 0 for stage in fresh if stage.name == name) for name in ("replies", "train"))
    found = f"Cost: {duration(seconds)} of computing"
    if taken := sum(state.seconds for state in states):
        found += f" in {duration(taken)}"
    devices = {state.environment["device"] for state in states if "device" in state.environment}
    found += "".join(f" on {device}" for device in sorted(devices))
    found += f", {sampled:,} tokens sampled, {trained:,} trained on"
    if fresh:
        found += f", {max(stage.peak_gib for stage in fresh):.1f} GiB of memory at most"
    return f"{found}; {len(stages) - len(fresh)} of {len(stages)} stages were found in the store."


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s" if whole < 6000 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def next_steps(grouped: Mapping[str, Sequence[Member]], compared: Sequence[Comparison]) -> list[str]:
    """What went wrong comes first; then what would make the result surer, or how to use it."""
    runs = states_of(grouped)
    states = [state for group in runs.values() for state in group]
    if any(state.status == "running" for state in states):
        return []
    found = ["It was stopped: the same command goes on from there."] if any(s.status == "stopped" for s in states) else []
    found += dict.fromkeys(line for state in states for line in state.outlook[2:])
    if unmatched(compared):
        fewest = min(side.fewest for this in compared for side in (this.one, this.other))
        found.append(f"Run the sweep again with examples_per_iteration={fewest}, so that all train on the same amount.")
    raised = dict.fromkeys(alarm.name for state in states for alarm in state.alarms if alarm.name in TO_DO)
    for remedy in dict.fromkeys(TO_DO[name] for name in raised):
        names = [name for name in raised if TO_DO[name] == remedy]
        found.append(f"Because of the alarm{'s' * (len(names) > 1)} {' and '.join(names)}: {remedy}.")
    for label, change in last_gains(runs).items():
        if change is not None and change.significant and change.mean > 0:
            policy = policy_of(grouped[label][0].folder)
            found.append(f"{label} is better. To go on from its policy: model=pretrained model.path={policy}")
        elif change is not None and change.significant:
            found.append(
                f"{label} is worse: a lower train.learning_rate, or a higher objective.nll.weight, keeps it near the start."
            )
    if len({seeds_of(state) for state in states}) == 1:
        found.append("One seed tells little about a method: -m seed=0,1,2 gives intervals over sampling and training.")
    return found[:MOST]


def policy_of(folder: Path) -> Path:
    """Of a run: the last iteration's policy."""
    policies = iterations(folder, "policy")
    return folder / policies[-1] / "policy" if policies else folder
