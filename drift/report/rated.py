"""Figures of a policy that depend on the other policies of a table: WB-Elo, and Arena-Hard's win rate under style control.

They come from what the judge said of each policy's replies (the lines of replies.jsonl, see `JudgedBenchmark.facts`). In a study,
the policies of one seed are compared. Policies that another judge judged, or on other tasks, are not compared, and equal ones count
as one. A policy alone has no such figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from drift.benchmark import arena_style, wildbench_elo
from drift.benchmark.judged import UNREAD
from drift.benchmark.wildbench import Graded
from drift.records import digest
from drift.report.foreign import Malformed, Reader
from drift.report.lines import JudgedReply
from drift.report.members import seeds_of
from drift.report.results import Row
from drift.report.state import Member, Point, Scores
from drift.report.tables import Table, show
from drift.statistics import Interval, over_seeds

ELO, CONTROLLED = "WB-Elo", "style-controlled win rate"
DIGITS = {ELO: 0, CONTROLLED: 1}
MEANINGS = {
    ELO: "rating by the grades that the judge gave the compared policies for the same tasks; their mean is 1000. No model with a "
    "published rating takes part, so only differences can be laid beside published ones",
    CONTROLLED: "Arena-Hard's win rate, in percent, if all compared policies wrote in one style (length, headers, lists, bold)",
}
NUM_STYLES, MOST_OUTCOMES = 4, 100

Name = TypeVar("Name")
Judged = Sequence[JudgedReply]  # what a judge said of one policy's replies
Figures = dict[str, Interval]  # figure -> its value with an interval over tasks


def rows(groups: Mapping[str, Sequence[Member]], reader: Reader) -> list[Row]:
    """A row per group, policy and figure, of the start models and the last policies; over seeds, where there are several."""
    found: list[Row] = []
    evaluations = dict.fromkeys(
        name
        for members in groups.values()
        for member in members
        for point in member.state.points
        for name, scores in point.scores.items()
        if needed(scores)
    )
    for evaluation in evaluations:
        pools = []  # of each seed: figures in different pools of policies can't be averaged
        for seed in dict.fromkeys(seeds_of(member.state) for members in groups.values() for member in members):
            policies = {
                (label, point.name): judged(reader, member.folder, f"{place(point)}/{evaluation}/replies.jsonl")
                for label, members in groups.items()
                for member in members
                if seeds_of(member.state) == seed
                for point in ends(member, evaluation)
            }
            pools.append((set(policies), figures_of(policies)))
        largest, values = max((names for names, _ in pools), key=len), dict[tuple[str, str, str], list[Interval]]()
        for (label, policy), figures in (one for names, ratings in pools if names == largest for one in ratings.items()):
            for figure, interval in figures.items():
                values.setdefault((label, policy, figure), []).append(interval)
        for (label, policy, figure), intervals in values.items():
            value = intervals[0] if len(intervals) == 1 else over_seeds([one.mean for one in intervals])
            about = {"run": label, "evaluation": evaluation, "policy": policy, "metric": figure}
            found.append(about | {"value": value.mean, "low": value.low, "high": value.high, "over": value.over})
    return found


def table(found: Sequence[Row]) -> Table:
    """The rows as text."""
    return [
        {name: str(row[name]) for name in ("run", "policy")}
        | {"figure": row["metric"], "value": show(_interval(row), DIGITS[row["metric"]]), "over": row["over"]}
        for row in found
    ]


def meanings(found: Sequence[Row]) -> dict[str, str]:
    return {name: text for name, text in MEANINGS.items() if name in {row["metric"] for row in found}}


def needed(scores: Scores) -> bool:
    """Whether a judge scored the replies."""
    return UNREAD in scores.metrics


def ends(member: Member, evaluation: str) -> list[Point]:
    """The first and the last policy that have this evaluation."""
    points = [point for point in member.state.points if evaluation in point.scores]
    return points[:1] + points[1:][-1:]


def place(point: Point) -> str:
    return f"iteration_{point.iteration}" if point.iteration or point.name == "start" else "warm_start"


def judged(reader: Reader, folder: Path, name: str) -> Judged:
    """The replies that have what a figure needs; none if one of them has what no benchmark gives."""
    found = [row for row in reader.lines(folder, name, JudgedReply) if row.grade is not None or row.style is not None]
    if not all(map(_sound, found)):
        reader.skip(folder / name, Malformed("a grade, an outcome or a style is none that a benchmark gives"))
        return []
    return found


def _sound(row: JudgedReply) -> bool:
    if row.grade is not None:
        return 1 <= row.grade <= 10
    outcomes, style = row.outcomes or [], row.style or []
    shares = all(0 <= value <= 1 for value in outcomes) and all(-1 <= value <= 1 for value in style)
    return shares and 0 < len(outcomes) <= MOST_OUTCOMES and len(style) == NUM_STYLES


def figures_of(policies: Mapping[Name, Judged]) -> dict[Name, Figures]:
    """Policy -> its figures, for all policies that are compared with another one."""
    same: dict[str, list[Name]] = {}
    for name, replies in policies.items():
        if replies:
            same.setdefault(digest([vars(row) for row in sorted(replies, key=lambda row: row.key)]), []).append(name)
    found: dict[Name, Figures] = {}
    for pool in _pools({names[0]: policies[names[0]] for names in same.values()}):
        if len(pool) > 1:
            found |= _elo(pool) if next(iter(pool.values()))[0].grade is not None else _controlled(pool)
    equal = {name: names[0] for names in same.values() for name in names}
    return {name: found[equal[name]] for name in policies if name in equal and equal[name] in found}


def _pools(policies: Mapping[Name, Judged]) -> list[dict[Name, Judged]]:
    """Those that the same judge judged on common tasks, together."""
    pools: list[dict[Name, Judged]] = []
    kinds = {name: {(row.judge, row.key) for row in replies} for name, replies in policies.items()}
    for name, replies in policies.items():
        pool = next((pool for pool in pools if kinds[name] & kinds[next(iter(pool))]), None)
        if pool is None:
            pools.append(pool := {})
        pool[name] = replies
    return pools


def _elo(pool: Mapping[Name, Judged]) -> dict[Name, Figures]:
    names = {str(i): name for i, name in enumerate(pool)}
    grades = {
        short: [Graded(key=row.key, grade=row.grade, reply=row.reply) for row in pool[name] if row.grade is not None]
        for short, name in names.items()
    }
    ratings = wildbench_elo.ratings(grades, {}, **wildbench_elo.PUBLISHED)
    bounds = wildbench_elo.over_tasks(
        grades, **{name: value for name, value in wildbench_elo.PUBLISHED.items() if name not in ("interval", "rounds")}
    )
    return {
        names[short]: {ELO: Interval(mean=one.elo, low=bounds[short][0], high=bounds[short][1], over=_over(pool[names[short]]))}
        for short, one in ratings.items()
    }


def _controlled(pool: Mapping[Name, Judged]) -> dict[Name, Figures]:
    names = {str(i): name for i, name in enumerate(pool)}
    fought = {
        short: [arena_style.Fought(key=row.key, outcomes=row.outcomes or [], style=row.style or []) for row in pool[name]]
        for short, name in names.items()
    }
    return {
        names[short]: {CONTROLLED: Interval(mean=one.win_rate, low=one.low, high=one.high, over=_over(pool[names[short]]))}
        for short, one in arena_style.style_controlled(fought).items()
    }


def _over(replies: Judged) -> str:
    return f"{len(replies)} prompt{'s' if len(replies) > 1 else ''}"


def _interval(row: Row) -> Interval:
    return Interval(mean=row["value"], low=row["low"], high=row["high"], over=row["over"])
