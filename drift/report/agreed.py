"""The table of how far judges agree with users: what the runs measured (METHOD.judge/agreement.json), and what `drift agree` wrote
beside their records (records.A-B.json, one side of which is the users)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from drift.report.foreign import Reader
from drift.report.lines import Agreement
from drift.report.state import Member
from drift.report.tables import Table, show
from drift.statistics import Interval, over_seeds

PATTERNS = ("*.judge/agreement.json", "records.users-*.json", "records.*-users.json")
MOST = 20  # files of one run


def files(folder: Path) -> list[str]:
    """Those of a run, as paths in its folder."""
    return [str(file.relative_to(folder)) for pattern in PATTERNS for file in sorted(folder.glob(pattern))][:MOST]


def rows(groups: Mapping[str, Sequence[Member]], reader: Reader) -> Table:
    """A row per group, judge and measure; over seeds, if their logs differ."""
    table: Table = []
    for label, members in groups.items():
        for (judge, measure, of), found in _measured(members, reader).items():
            means = [interval.mean for interval, _ in found]  # of different runs
            value = found[0][0] if len(found) == 1 else over_seeds(means)
            items = " / ".join(dict.fromkeys(str(number) for _, number in found))
            row = {"run": label, "judge": judge, "measure": measure, "of": "" if of == judge else of}
            table.append(row | {"value": show(value, 3), "items": items, "over": value.over})
    return table


def meanings(groups: Mapping[str, Sequence[Member]], reader: Reader) -> dict[str, str]:
    """Measure -> what it means, of the measures in the table."""
    found = [one for members in groups.values() for _, _, one in _of(members, reader)]
    known = {measure.measure for one in found for measure in one.measures}
    return {name: text for one in found for name, text in one.meanings.items() if name in known}


def _of(members: Sequence[Member], reader: Reader) -> list[tuple[Path, str, Agreement]]:
    """(run, file in it, content) of these runs, each file once: seeds may share a log."""
    places = {
        path: (member.folder, name)
        for member in members
        for name in files(member.folder)
        if (path := reader.find(member.folder, name))
    }
    read = [(folder, name, reader.json(folder, name, Agreement)) for folder, name in places.values()]
    return [one for one in read if one[2] is not None]


def _measured(members: Sequence[Member], reader: Reader) -> dict[tuple[str, str, str], list[tuple[Interval, int]]]:
    """(judge, measure, side or group) -> the values of different runs, with the numbers of items. The judges of a run are called by
    their places in the config, method.judge or filters.judge."""
    found: dict[tuple[str, str, str], dict[Path, tuple[Interval, int]]] = {}
    for folder, name, one in _of(members, reader):
        called = one.b if one.a == "users" else one.a
        judge = name.partition("/")[0] + called.removeprefix("judge") if "/" in name else called
        for row in one.measures:
            interval = Interval(mean=row.mean, low=row.low, high=row.high, over=row.over)
            of = judge if row.of == called else row.of
            found.setdefault((judge, row.measure, of), {}).setdefault(folder, (interval, row.number))
    return {key: list(values.values()) for key, values in found.items()}
