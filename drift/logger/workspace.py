"""A workspace in Weights & Biases that lays our methods over one another: scores by iteration, training by step, alarms."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from drift.alarms import Alarms
from drift.console import say
from drift.errors import need_package
from drift.logger.wandb import complaints
from drift.records import write_text

SCORES = (
    "utility",
    "request met",
    "on topic",
    "words",
    "distinct-2",
    "missing ends",
    "perplexity under start",
    "margin against start (nats)",
    "pair accuracy",
    "chosen log-prob per token",
    "log-prob lost per disliked token",
)
TRAINING = (
    "loss", "dpo", "margin", "accuracy", "sigma", "reward_chosen", "reward_rejected", "chosen_shift",
    "logp_chosen", "logp_rejected", "entropy",
    "grad_norm", "dpo_norm", "dpo_pair_norm", "chosen_tokens", "rejected_tokens", "learning_rate",
)  # fmt: skip


def build(entity: str, project: str) -> Any:
    """The workspace; runs are grouped by method, lines are means over their runs."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    alarms = tuple(item.name for item in fields(Alarms) if item.name != "action")

    def lines(prefix: str, names: tuple[str, ...], axis: str) -> list[Any]:
        return [
            wr.LinePlot(title=name.replace("_", " "), x=axis, y=[f"{prefix}/{name}"], groupby_rangefunc="minmax") for name in names
        ]

    return ws.Workspace(
        entity=entity,
        project=project,
        name="Methods side by side",
        sections=[
            ws.Section(name="Scores by iteration", panels=lines("scores", SCORES, "iteration"), is_open=True),
            ws.Section(name="Training by step", panels=lines("train", TRAINING, "step"), is_open=True),
            ws.Section(name="Alarms", panels=lines("alarms", alarms, "iteration")),
            ws.Section(name="What differs", panels=[wr.RunComparer(diff_only=True)]),
        ],
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("JobType")]),
    )


def workspace(entity: str, project: str, spec: Path | None) -> None:
    """Saves the workspace to the server that wandb is logged in to, or writes its specification to a file."""
    need_package("wandb_workspaces", "drift workspace", extra="wandb")
    found = build(entity, project)
    if spec is None:
        with complaints("--spec FILE"):
            say(f"Workspace: {found.save().url}")
        return
    write_text(spec, found._to_model().model_dump_json(by_alias=True, indent=1))
    say(f"Specification: {spec}; nothing was sent.")
