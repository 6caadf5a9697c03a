"""The figures that the paper reports for an experiment, beside those of a study. A file paper/EXPERIMENT.yaml holds the paper's.

The paper mixes units, and so do the gains here: on WildBench they are relative, in percent of the start model's score; on
AlpacaEval 2 they are the difference of two percentages, in points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.report.foreign import BENCHMARKS, Reader
from drift.report.members import grouped
from drift.report.state import Member
from drift.report.tables import Table, show
from drift.statistics import Interval, over_seeds

PLACE = Path(__file__).resolve().parent / "paper"
START, BEST, ANY = "start", "best iteration", "any"

Numbers = Mapping[tuple[str, str, str], float]  # (policy, benchmark, metric) -> value


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of the paper's tables: the name of its evaluation here, and what its gains are given in."""

    evaluation: str
    name: str
    relative: bool


METRICS = {
    "WB-Score": Metric(evaluation="wildbench", name="WildBench task score (WB-Score)", relative=True),
    "WB-Elo": Metric(evaluation="wildbench", name="WildBench Elo", relative=False),
    "win rate": Metric(evaluation="alpacaeval", name="AlpacaEval 2 win rate, %", relative=False),
    "LC win rate": Metric(evaluation="alpacaeval", name="AlpacaEval 2 length-controlled win rate, %", relative=False),
}


def known() -> dict[str, Path]:
    """Experiment -> the file with the paper's figures."""
    return {file.stem: file for file in sorted(PLACE.glob("*.yaml"))}


def load(file: Path) -> dict[str, Any]:
    """`source`, `about` (sentences), and `rows`: a model, a method, a policy, and their metrics (null: not known)."""
    import yaml

    return yaml.safe_load(file.read_text(encoding="utf-8"))


def sections(folder: Path, members: Sequence[Member], reader: Reader) -> list[dict[str, Any]]:
    """For the page: the table of every experiment of these runs that the paper reports."""
    files, found = known(), []
    for name in dict.fromkeys(member.state.title.get("experiment", "") for member in members):
        if name in files:
            paper, ours = load(files[name]), [member for member in members if member.state.title.get("experiment") == name]
            once, several = alike(ours)
            rows = table(paper["rows"], Study.of(folder, once, reader))
            found.append({"experiment": name, "source": paper["source"], "about": [*paper["about"], *several], "rows": rows})
    return found


def alike(members: Sequence[Member]) -> tuple[list[Member], list[str]]:
    """(the runs, each setting and seed once, whose method and model come with one choice of settings; a sentence on the others)."""
    groups: dict[tuple[str, str], dict[str, Sequence[Member]]] = {}
    for label, group in grouped(members).items():
        groups.setdefault((group[0].state.title["method"], group[0].state.notes.get("model", "")), {})[label] = group
    left_out = [label for found in groups.values() if len(found) > 1 for label in found]
    once = [member for found in groups.values() if len(found) == 1 for group in found.values() for member in group]
    said = f"Left out here, because their settings differ, and a row has one choice of settings: {'; '.join(left_out)}."
    return once, [said] if left_out else []


@dataclass(frozen=True, kw_only=True)
class Study:
    """The runs of an experiment, and what `drift evaluate` measured on each of them."""

    members: Sequence[Member]
    in_full: Sequence[Numbers]

    @classmethod
    def of(cls, folder: Path, members: Sequence[Member], reader: Reader) -> "Study":
        together = _read(folder, reader)
        return cls(members=members, in_full=[_of_run(member.folder, together, reader) for member in members])

    def obtained(self, model: str, method: str, policy: str, metric: str) -> Interval | None:
        """The mean over seeds; None if nothing was measured."""
        chosen = [
            (member, numbers)
            for member, numbers in zip(self.members, self.in_full, strict=True)
            if member.state.notes.get("model") == model and method in (ANY, member.state.title["method"])
        ]
        names = dict.fromkeys(point.name for member, _ in chosen for point in member.state.points if point.iteration)
        value_of = _in_full if self._measured_in_full(model, metric) else _in_the_run
        by_policy = [
            [value for member, numbers in chosen if (value := value_of(member, numbers, name, metric)) is not None]
            for name in (names if policy == BEST else [policy])
        ]
        measured = [over_seeds(values[:1] if method == ANY else values) for values in by_policy if values]
        return max(measured, key=lambda interval: interval.mean, default=None)

    def _measured_in_full(self, model: str, metric: str) -> bool:
        """Whether any policy of this model has this metric on all prompts: then only such figures are shown, and no run's panel."""
        wanted = (METRICS[metric].evaluation, metric)
        return any(
            key[1:] == wanted
            for member, numbers in zip(self.members, self.in_full, strict=True)
            if member.state.notes.get("model") == model
            for key in numbers
        )


def table(rows: Sequence[Mapping[str, Any]], study: Study) -> Table:
    """A row per figure of the paper; what is not known, or was not measured, is empty."""
    starts = {(row["model"], metric): row.get(metric) for row in rows if row["policy"] == START for metric in METRICS}
    made: Table = []
    for row in rows:
        model, method, policy = row["model"], row["method"], row["policy"]
        for metric in (name for name in METRICS if name in row):
            ours, first = study.obtained(model, method, policy, metric), study.obtained(model, ANY, START, metric)
            made.append({
                "model": model, "method": "" if method == ANY else method, "policy": policy, "metric": METRICS[metric].name,
                "paper": "" if row[metric] is None else f"{row[metric]:.2f}", "obtained": "" if ours is None else show(ours, 2),
                "paper: against start": "" if policy == START else gain(row[metric], starts.get((model, metric)), metric),
                "obtained: against start": "" if policy == START else gain(ours and ours.mean, first and first.mean, metric),
            })  # fmt: skip
    return made


def gain(value: float | None, start: float | None, metric: str) -> str:
    """'+6.23 %' of the start model's score, or '+8.95 points'."""
    if value is None or start is None or (METRICS[metric].relative and not start > 0):
        return ""
    return f"{(value / start - 1) * 100:+.2f} %" if METRICS[metric].relative else f"{value - start:+.2f} points"


def _in_full(member: Member, numbers: Numbers, policy: str, metric: str) -> float | None:
    """Of all prompts."""
    return numbers.get((policy, METRICS[metric].evaluation, metric))


def _in_the_run(member: Member, numbers: Numbers, policy: str, metric: str) -> float | None:
    """Of the run's own evaluation."""
    evaluation = METRICS[metric].evaluation
    points = [point.scores[evaluation] for point in member.state.points if point.name == policy and evaluation in point.scores]
    return next((scores.metrics[metric].value for scores in points if metric in scores.metrics), None)


def _of_run(folder: Path, together: Numbers, reader: Reader) -> Numbers:
    """The numbers of one run's policies, from its own table and from one of several runs, which names them after their folders."""
    name = f"{folder.resolve().name} "
    own = _read(folder, reader)
    named = {(key[0].removeprefix(name), *key[1:]): value for key, value in {**own, **together}.items() if key[0].startswith(name)}
    return {key: value for key, value in own.items() if not key[0].startswith(name)} | named


def _read(folder: Path, reader: Reader) -> dict[tuple[str, str, str], float]:
    found = {}
    for row in reader.table(folder, BENCHMARKS):
        try:
            found[row["policy"], row["benchmark"], row["metric"]] = float(row["value"])
        except (KeyError, ValueError):  # a metric that could not be measured, or another file
            continue
    return found
