"""Converts the run.json of the previous version, which had no version number, to the current one.

It changes only what has the form that the previous version wrote; the check that follows refuses anything else.
"""

from typing import Any

from drift.report.state import VERSION

EVALUATION = "evaluation"  # runs had one, and it had no name
RENAMED = {
    "pairs": "examples", "distinct prompts": "distinct_prompts", "generated tokens": "generated_tokens",
    "prompts too long": "prompts_too_long", "first step": "first_step",
}  # fmt: skip
EMPTY: dict[str, Any] = {"outlook": [], "alarms": [], "watched": [], "environment": {}, "begun": "", "seconds": 0.0}


def upgraded(state: Any) -> Any:
    """The content of a run.json in the current version."""
    if not isinstance(state, dict) or "version" in state:
        return state
    new = EMPTY | state | {"version": VERSION, "evaluations": {EVALUATION: state.get("meanings", {})}}
    if isinstance(points := state.get("points"), list):
        new["points"] = [_point(point) for point in points]
    if isinstance(stages := state.get("stages"), list):
        new["stages"] = [s | {"name": "examples"} if isinstance(s, dict) and s.get("name") == "pairs" else s for s in stages]
    return new


def _point(old: Any) -> Any:
    if not isinstance(old, dict):
        return old
    new = {RENAMED.get(name, name): value for name, value in old.items()}
    if "scores" in old:
        new["scores"] = {EVALUATION: old["scores"]}
    elif "iteration" in old:  # a trained policy had no name before it was evaluated
        new.setdefault("name", f"iteration {old['iteration']}" if old["iteration"] else "warm start")
    return new


def file_of(evaluation: str, name: str) -> str:
    """The path of an evaluation's file in the folder of a policy."""
    return name if evaluation == EVALUATION else f"{evaluation}/{name}"


def example(pair: Any) -> Any:
    """A line of examples.jsonl, from one of pairs.jsonl."""
    if not isinstance(pair, dict) or "replies" in pair:
        return pair
    fresh = pair["fresh"] if isinstance(pair.get("fresh"), list) else []
    sides = [
        {"text": pair.get(side), "ended": pair.get(f"{side}_ended"), "fresh": side in fresh, "good": side == "chosen"}
        for side in ("chosen", "rejected")
    ]
    return {name: pair[name] for name in ("prompt", "feedback", "record") if name in pair} | {"replies": sides}
