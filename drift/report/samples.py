"""The items of the sample browser: the same prompt with the replies of every run, side by side."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.model.files import HOW_BACK
from drift.records import digest
from drift.report import previous
from drift.report.foreign import Reader, iterations
from drift.report.lines import Answered, Message, Trained, TrainedReply, answer
from drift.report.members import SEEDS
from drift.report.shapes import plain
from drift.report.state import Member, RunState

NUM_SHOWN = 120  # items of each kind, so that a page has no more than a few megabytes
MAX_CHARACTERS, MAX_REPLIES = 10_000, 100  # of a text; to one prompt

Item = dict[str, Any]  # kind, prompt, logged: [(title, text)], replies: [(title, text, remark, note)]


def items(runs: Mapping[str, Member], reader: Reader) -> list[Item]:
    """`runs`: by their names on the page."""
    folders = {name: member.folder for name, member in runs.items()}
    evaluations = dict.fromkeys(name for member in runs.values() for point in member.state.points for name in point.scores)
    evaluated = [item for name in evaluations for item in answers(name, folders, reader)]
    return [*evaluated, *trained_on(folders, reader)]


def gone(folders: Iterable[Path]) -> str:
    """A sentence if links of the run folders are dead, because the store was deleted; "" otherwise."""
    broken = [link for folder in folders for link in sorted(folder.glob("**/*")) if link.is_symlink() and not link.exists()]
    if not broken:
        return ""
    names = ", ".join(dict.fromkeys(link.name for link in broken))
    return (
        f"Some links of this folder lead to files that are gone ({names}); the first led to {os.readlink(broken[0])}. "
        "The store was moved or deleted, so the samples, policies and logs can't be shown. Put it back, or run again."
    )


def removed(states: Sequence[RunState]) -> str:
    """A sentence if policies of these runs were removed to save disk; "" otherwise."""
    named = []
    for state in states:
        title = ", ".join(f"{name} {state.title[name]}" for name in ("method", *SEEDS) if name in state.title)
        named += [", ".join(state.removed) + (f" ({title})" if len(states) > 1 else "")] if state.removed else []
    return f"To save disk, the weights of these policies were removed: {'; '.join(named)}. {HOW_BACK}" if named else ""


def answers(evaluation: str, folders: Mapping[str, Path], reader: Reader) -> list[Item]:
    """An evaluation's prompts with the first reply of the start model (of each start model, if there are several) and of every
    run's last policy, with the same noise. `folders`: name of a run -> its folder."""
    file = previous.file_of(evaluation, "replies.jsonl")
    by_prompt: dict[str, Item] = {}
    starts: dict[Path, tuple[str, Path]] = {}
    for name, folder in folders.items():
        if (real := reader.find(folder, f"iteration_0/{file}")) is not None:
            starts.setdefault(real, (name, folder))  # runs with the same start share the stage
    begins = starts.values()
    columns = [("start model" if len(begins) == 1 else f"start model ({name})", folder, "iteration_0") for name, folder in begins]
    ends = [(name, folder, last(folder, file, warm_start=True)) for name, folder in folders.items()]
    for title, folder, where in [*columns, *ends]:
        for row in reader.lines(folder, f"{where}/{file}", Answered, answer) if where is not None else ():
            item = by_prompt.setdefault(digest(plain(row.prompt)), _item(evaluation, row.prompt))
            if not item["logged"] and row.logged is not None:
                item["logged"] = _logged(row.label or "sat", row.logged, row.feedback)
            if title not in [known for known, *_ in item["replies"]]:
                remark = {True: "useful", False: "not useful", None: ""}[row.useful]
                item["replies"].append((title, short(row.reply), remark, facts(row)))
    return list(by_prompt.values())[:NUM_SHOWN]


def trained_on(folders: Mapping[str, Path], reader: Reader) -> list[Item]:
    """Logged replies with the user's feedback, and beside them the replies of each run's last examples."""
    by_record: dict[str, Item] = {}
    for title, folder in folders.items():
        file = "examples.jsonl"
        if (where := last(folder, file)) is None:
            file = "pairs.jsonl"  # of the version before
            if (where := last(folder, file)) is None:
                continue
        refreshed = f"{where}/records.jsonl"  # where the iteration has a log of its own
        log = refreshed if (folder / refreshed).exists() else "records.jsonl"
        records = {record.id: record for record in reader.records(folder, log)}
        for example in reader.lines(folder, f"{where}/{file}", Trained, previous.example) if records else ():
            record = records.get(example.record)
            item = by_record.setdefault(record.key if record else example.record, _item("training", example.prompt))
            if record is not None and not item["logged"]:
                item["logged"] = _logged(record.label, record.reply, record.feedback)
            room = MAX_REPLIES - len(item["replies"])
            item["replies"] += [_side(title, reply) for reply in _beside(example.replies, item["logged"])[: max(0, room)]]
    return sorted(by_record.values(), key=lambda item: -len({title for title, *_ in item["replies"]}))[:NUM_SHOWN]


def _beside(replies: Sequence[TrainedReply], logged: Sequence[tuple[str, str]]) -> list[TrainedReply]:
    """The replies that are not yet shown as the logged one; all of them if no other is left."""
    known = {text for _, text in logged}
    return [reply for reply in replies if reply.fresh or short(reply.text) not in known] or list(replies)


def _side(title: str, reply: TrainedReply) -> tuple[str, str, str, str]:
    notes = ["" if reply.fresh else "logged", "" if reply.ended else "cut off"]
    return title, short(reply.text), "good" if reply.good else "bad", ", ".join(filter(None, notes))


def last(folder: Path, name: str, *, warm_start: bool = False) -> str | None:
    """The folder of the last iteration that has a file of that name (without iteration_0, the start model), or else that of the
    warm start."""
    files = [place for place in iterations(folder, name) if place != "iteration_0"]
    first = "warm_start" if warm_start and (folder / "warm_start" / name).exists() else None
    return files[-1] if files else first


def short(text: str) -> str:
    """The text, shortened to what a page can show."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ... ({len(text) - MAX_CHARACTERS} more characters)"


def facts(row: Answered) -> str:
    """Length, end and repetition of a reply, as far as they are known."""
    notes = [f"{row.words} words"] if row.words is not None else []
    notes += ["cut off"] if row.ended is False else []
    return ", ".join(notes + ([f"distinct-2 {row.distinct_2:.2f}"] if row.distinct_2 is not None else []))


def _logged(label: str, reply: str, feedback: str | None) -> list[tuple[str, str]]:
    reaction = [("then the user", short(feedback))] if feedback else []
    return [({"dsat": "disliked", "sat": "liked", "silent": "no feedback"}[label], short(reply)), *reaction]


def _item(kind: str, prompt: Sequence[Message]) -> Item:
    texts = [message.content for message in prompt if message.role != "system"]
    return {"kind": kind, "prompt": short(texts[-1]) if texts else "", "turns": len(texts), "logged": [], "replies": []}
