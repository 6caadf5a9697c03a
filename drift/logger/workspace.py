"""A Weights & Biases workspace that compares methods in one place: scores by iteration, training by step, alarms, and the tables,
samples and page of the study's report.

Its panels show the metrics of a local run or study, so a new objective or evaluation needs no change here.
"""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from drift.alarms import Alarms
from drift.console import say
from drift.errors import UserError, need_package
from drift.logger.wandb import translate_errors
from drift.records import write_text
from drift.report import dynamics
from drift.report.foreign import Reader, need_members
from drift.report.members import metrics_of

TABLES = (
    "comparisons",
    "scores",
    "evaluations",
    "benchmarks",
    "judges",
    "paper",
    "alarms",
)  # of a study's report, see comparison.py


def metrics(folder: Path) -> tuple[list[str], list[str]]:
    """(metrics of scores, metrics of optimiser steps) of the runs in a folder, in the order of a report."""
    reader = Reader()
    members = need_members(reader, folder)
    scores = dict.fromkeys(name for member in members for point in member.state.points for name in metrics_of(point.scores))
    return list(scores), dynamics.drawn({"": [reader.steps(member.folder) for member in members]})


def build(entity: str, project: str, scores: Sequence[str], training: Sequence[str]) -> Any:
    """The workspace; runs are grouped by method, and lines are means over the runs of a group."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    alarms = [item.name for item in fields(Alarms) if item.name != "action"]

    def lines(prefix: str, names: Sequence[str], axis: str) -> list[Any]:
        return [
            wr.LinePlot(title=dynamics.label(name), x=axis, y=[f"{prefix}/{name}"], groupby_rangefunc="minmax") for name in names
        ]

    def table(name: str) -> Any:
        return wr.WeavePanelSummaryTable(table_name=f"report/{name}")

    return ws.Workspace(
        entity=entity,
        project=project,
        name="Methods side by side",
        sections=[
            ws.Section(name="Scores by iteration", panels=lines("scores", scores, "iteration"), is_open=True),
            ws.Section(name="Training by step", panels=lines("train", training, "step"), is_open=True),
            ws.Section(name="Alarms", panels=lines("alarms", alarms, "iteration")),
            ws.Section(name="Comparison", panels=[*map(table, TABLES), wr.MediaBrowser(media_keys=["report/page"])], is_open=True),
            ws.Section(name="Samples", panels=[table("samples")]),
            ws.Section(name="What differs", panels=[wr.RunComparer(diff_only=True)]),
        ],
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("JobType")]),
    )


def workspace(folder: Path, entity: str, project: str, spec: Path | None) -> None:
    """Saves the workspace to the server that wandb is logged in to, or writes its specification to the file `spec`. `folder`: of
    the run or study whose metrics get panels."""
    need_package("wandb_workspaces", "drift workspace", extra="wandb")
    scores, training = metrics(folder)
    if not scores:
        raise UserError(f"{folder}: nothing has been evaluated yet, so there is nothing to draw. Expected a run with scores.")
    built = build(entity, project, scores, training)
    if spec is None:
        with translate_errors("--spec FILE"):
            say(f"Workspace: {built.save().url}")
        return
    write_text(spec, built._to_model().model_dump_json(by_alias=True, indent=1))
    say(f"Specification: {spec}; nothing was sent.")
