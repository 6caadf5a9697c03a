"""How far a judge of a run agrees with the users of its log, as a stage: it is asked about replies that users liked or disliked.

Only a judge that costs nothing is asked. What a judge says in a run is about fresh replies, which no user has seen; so nothing is
known from there. For a judge that costs money there is `drift agree`, whose file the report shows too."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from drift.console import say
from drift.engine.ask import Ask
from drift.engine.budget import Paid
from drift.identity import identity
from drift.judge import sides
from drift.judge.sides import Texts
from drift.parts import Judge
from drift.records import Record, Reply, digest, write_json
from drift.report import agreement
from drift.report.tables import show
from drift.statistics import Interval
from drift.store import Stage

VERSION = 1
FILE = "agreement.json"


def agreement_stages(
    ask: Ask, judges: dict[str, Judge | None], records: Sequence[Record], most: int
) -> Iterator[tuple[str, Stage]]:
    """A stage for each of a run's judges, by its place in the config; one for judges that are the same."""
    different = {digest(identity(judge)): (place, judge) for place, judge in reversed(judges.items()) if judge is not None}
    for place, judge in different.values():
        if most and (stage := agreement_stage(ask, judge, records, most)) is not None:
            say_measured(place, stage)
            yield place, stage


def say_measured(place: str, stage: Stage) -> None:
    """The measures that say most, on the console."""
    for row in json.loads((stage.path / FILE).read_text(encoding="utf-8"))["measures"]:
        if row["measure"] in ("agreement", "AUC") and not row["of"]:
            interval = Interval(**{name: row[name] for name in ("mean", "low", "high", "over")})
            say(f"  {place} and users: {row['measure']} {show(interval, 3)} ({interval.over})")


def agreement_stage(ask: Ask, judge: Judge, records: Sequence[Record], most: int) -> Stage | None:
    """Makes agreement.json (see report/agreement.py) from at most so many records; None if the judge is not to be asked, or their
    users liked everything or nothing, so that there is nothing to agree with."""
    labelled = [one for one in sides.singles_of(records) if one.truth is not None or not judge.needs_truth]
    kept = sorted(labelled, key=lambda record: digest(record.key))[:most]
    pairs, singles = [pair for pair in sides.pairs_of(kept) if pair.better is not None], kept
    if isinstance(judge, Paid) or (not pairs and len({record.label for record in singles}) < 2):
        return None

    def grade(judge: Judge, texts: Texts) -> list[float | None]:
        asked = {(record.key, text): (record, [Reply(text=text, num_tokens=0, ended=ended)]) for record, text, ended in texts}
        scored = ask.judge(judge, asked.values(), label="judging the log")
        found = {(record.key, reply.text): score for record, (reply,), (score,) in scored}
        return [found.get((record.key, text)) for record, text, _ in texts]

    def work(progress: Path, output: Path) -> dict[str, Any]:
        with ask:
            views = [sides.users(pairs, singles), sides.ask(judge, "judge", pairs, singles, grade)]
        measures = agreement.all_measures(views, pairs, singles)
        write_json(output / FILE, agreement.content(views, measures))
        return {"measures": len(measures)}

    read = [
        [one.key, one.label, one.ended, one.revised, one.satisfied, one.truth, one.conversation, agreement.category(one)]
        for one in kept
    ]
    return ask.store.run("agreement", work, version=VERSION, settings={"judge": identity(judge)}, inputs={"records": digest(read)})
