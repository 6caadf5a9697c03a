"""What a run cost and what to do next, in a few lines, from its state."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from drift.alarms import REMEDIES
from drift.evaluation.outlook import WANTED
from drift.report import agreed
from drift.report.compare import Comparison
from drift.report.foreign import iterations
from drift.report.members import last_gains, seeds_of, states_of
from drift.report.state import Member, RunState
from drift.report.verdict import established, matching, unmatched

MAX_STEPS = 3  # lines of advice
JUDGES = {"judge": "method.judge.", "judge@filters.judge": "filters.judge."}  # the choice of a judge -> where its settings are
NESTED = ("replies", "logprobs", "judge")  # stages that other stages run, so that their seconds are already counted there


def cost(states: Sequence[RunState]) -> str:
    """Time, tokens and memory of all runs in one line; "" if they have computed nothing yet."""
    stages = [stage for state in states for stage in state.stages]
    fresh = [stage for stage in stages if not stage.hit]
    if not stages:
        return ""
    seconds = sum(stage.seconds for stage in fresh if stage.name not in NESTED)
    sampled, trained = (sum(stage.tokens or 0 for stage in fresh if stage.name == name) for name in ("replies", "train"))
    text = f"Cost: {duration(seconds)} of computing"
    if elapsed := sum(state.seconds for state in states):
        text += f" in {duration(elapsed)}"
    devices = {state.environment["device"] for state in states if "device" in state.environment}
    text += "".join(f" on {device}" for device in sorted(devices))
    text += f", {sampled:,} tokens sampled, {trained:,} trained on"
    if fresh:
        text += f", {max(stage.peak_gib for stage in fresh):.1f} GiB of memory at most"
    return f"{text}; {len(stages) - len(fresh)} of {len(stages)} stages were found in the store."


def duration(seconds: float) -> str:
    """'12 s', '3 min 05 s' or '2 h 10 min'."""
    total = round(seconds)
    if total < 100:
        return f"{total} s"
    return f"{total // 60} min {total % 60:02d} s" if total < 6000 else f"{total // 3600} h {total % 3600 // 60:02d} min"


def next_steps(grouped: Mapping[str, Sequence[Member]], compared: Sequence[Comparison]) -> list[str]:
    """Advice: first what went wrong, then what would make the result more certain, or how to use it."""
    runs = states_of(grouped)
    states = [state for group in runs.values() for state in group]
    if any(state.status == "running" for state in states):
        return []
    advice = ["The run was stopped; the same command resumes it."] if any(s.status == "stopped" for s in states) else []
    advice += dict.fromkeys(line for state in states for line in state.outlook if line.startswith(WANTED))
    if unmatched(compared):
        advice.append(f"Run the sweep again with {matching(compared)}, so that all train on the same amount.")
    raised = dict.fromkeys(alarm.name for state in states for alarm in state.alarms if alarm.name in REMEDIES)
    for remedy in dict.fromkeys(REMEDIES[name] for name in raised):
        names = [name for name in raised if REMEDIES[name] == remedy]
        advice.append(f"Because of the alarm{'s' * (len(names) > 1)} {' and '.join(names)}: {remedy}.")
    for label, change in established(last_gains(runs)).items():
        if change.mean > 0:
            policy = last_policy(grouped[label][0].folder)
            advice.append(f"{label} is better than the start model. To continue from it: model=pretrained model.path={policy}")
        else:
            advice.append(
                f"{label} is worse than the start model: a lower train.learning_rate or a higher objective.nll.weight "
                "(objective=[…,nll]) keeps the policy nearer to it."
            )
    advice += how_far_to_trust(grouped)
    if len({seeds_of(state) for state in states}) == 1 and any(state.status == "finished" for state in states):
        advice.append("One seed says little about a method: -m seed=0,1,2 gives intervals over sampling and training.")
    return advice[:MAX_STEPS]


def how_far_to_trust(grouped: Mapping[str, Sequence[Member]]) -> list[str]:
    """The command that compares the first chosen judge with the users of its log, if nothing is known of that yet. (Its verdicts in
    a run are about fresh replies, which no user has seen.)"""
    for member in (member for members in grouped.values() for member in members):
        title, log = member.state.title, member.folder / "records.jsonl"
        for chosen, settings in JUDGES.items():
            if chosen in title and log.is_file() and not agreed.files(member.folder):
                given = {key.removeprefix(settings): value for key, value in title.items() if key.startswith(settings)}
                own = [f"{'++' * key.startswith('endpoint.fields.')}b.{key}={value}" for key, value in given.items()]
                command = shlex.join([*"drift agree users".split(), title[chosen], str(log), *own])
                return [f"How far the judge agrees with the users of this log: {command}"]
    return []


def last_policy(folder: Path) -> Path:
    """The folder of a run's last policy."""
    policies = iterations(folder, "policy")
    return folder / policies[-1] / "policy" if policies else folder
