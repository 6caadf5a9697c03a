"""What the sample browser of a report shows: the same prompt, answered by every run, side by side."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from drift.records import digest
from drift.report.foreign import Reader, iterations
from drift.report.shapes import Answered, Trained

NUM_SHOWN = 120  # of each kind: a page stays a few megabytes
MOST_SHOWN, MOST_REPLIES = 10_000, 100  # characters of a text; replies to one prompt

Item = dict[str, Any]  # kind, prompt, logged: [(title, text)], replies: [(title, text, remark, note)]


def items(folders: Mapping[str, Path], reader: Reader) -> list[Item]:
    """`folders`: what a run is called -> its folder."""
    return [*answers(folders, reader), *trained_on(folders, reader)]


def gone(folders: Iterable[Path]) -> str:
    """Says so where what a run's folder links to was deleted with the store; "" where all is there."""
    broken = [link for folder in folders for link in sorted(folder.glob("**/*")) if link.is_symlink() and not link.exists()]
    if not broken:
        return ""
    names = ", ".join(dict.fromkeys(link.name for link in broken))
    return (
        f"{len(broken)} entries of this folder link to files that are gone ({names}); the first led to {os.readlink(broken[0])}. "
        "The store was moved or deleted: samples, policies and log can't be shown. Put it back, or run again."
    )


def answers(folders: Mapping[str, Path], reader: Reader) -> list[Item]:
    """Evaluation prompts with the first reply of the start model (of each, where runs differ in it or in how it was sampled) and of
    every run's last policy (same noise)."""
    found: dict[str, Item] = {}
    starts: dict[Path, tuple[str, Path]] = {}
    for name, folder in folders.items():
        if (file := reader.find(folder, f"iteration_0/{replies_of(folder)}")) is not None:
            starts.setdefault(file, (name, folder))  # runs with the same start share the stage
    begins = starts.values()
    columns = [("start model" if len(begins) == 1 else f"start model ({name})", folder, "iteration_0") for name, folder in begins]
    ends = [(name, folder, last(folder, replies_of(folder), warm_start=True)) for name, folder in folders.items()]
    for title, folder, where in [*columns, *ends]:
        for row in reader.rows(folder, f"{where}/{replies_of(folder)}", Answered) if where is not None else ():
            item = found.setdefault(digest(row["prompt"]), _item("evaluation", row["prompt"]))
            if not item["logged"] and "logged" in row:
                item["logged"] = _logged(row.get("label", "sat"), row["logged"], row.get("feedback"))
            if title not in [known for known, *_ in item["replies"]]:
                remark = {True: "useful", False: "not useful", None: ""}[row.get("useful")]
                item["replies"].append((title, short(row["reply"]), remark, shape(row)))
    return list(found.values())[:NUM_SHOWN]


def trained_on(folders: Mapping[str, Path], reader: Reader) -> list[Item]:
    """Logged replies with what the user said to them, and the fresh replies that each run's last pairs set against them."""
    found: dict[str, Item] = {}
    for title, folder in folders.items():
        if (where := last(folder, "pairs.jsonl")) is None:
            continue
        refreshed = f"{where}/records.jsonl"  # where the iteration has a log of its own
        log = refreshed if (folder / refreshed).exists() else "records.jsonl"
        records = {record.id: record for record in reader.records(folder, log)}
        for pair in reader.rows(folder, f"{where}/pairs.jsonl", Trained) if records else ():
            record = records.get(pair["record"])
            item = found.setdefault(record.key if record else pair["record"], _item("training", pair["prompt"]))
            if record is not None and not item["logged"]:
                item["logged"] = _logged(record.label, record.reply, record.feedback)
            fresh = pair["fresh"] if len(item["replies"]) < MOST_REPLIES else []
            item["replies"] += [(title, short(pair[side]), side, "" if pair[f"{side}_ended"] else "cut off") for side in fresh]
    return sorted(found.values(), key=lambda item: -len({title for title, *_ in item["replies"]}))[:NUM_SHOWN]


def last(folder: Path, name: str, *, warm_start: bool = False) -> str | None:
    """What holds the file of that name: the last iteration that has it, the start model's (iteration_0) left out; else the warm
    start."""
    files = [file for file in iterations(folder, name) if file.relative_to(folder).parts[0] != "iteration_0"]
    first = "warm_start" if warm_start and (folder / "warm_start" / name).exists() else None
    return files[-1].relative_to(folder).parts[0] if files else first


def replies_of(folder: Path) -> str:
    """The replies of a run's first evaluation that has some, below the folder of a policy."""
    files = sorted(folder.glob("iteration_0/*/replies.jsonl")) or sorted(folder.glob("*/*/replies.jsonl"))
    return f"{files[0].parent.name}/replies.jsonl" if files else "replies.jsonl"


def short(text: str) -> str:
    """A text that a page can hold."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} ... ({len(text) - MOST_SHOWN} more characters)"


def shape(row: Mapping[str, Any]) -> str:
    """Length, end and repetition of a reply, as far as its row says."""
    found = [f"{row['words']} words"] if "words" in row else []
    found += ["cut off"] if row.get("ended") is False else []
    return ", ".join(found + ([f"distinct-2 {row['distinct-2']:.2f}"] if "distinct-2" in row else []))


def _logged(label: str, reply: str, feedback: str | None) -> list[tuple[str, str]]:
    said = [("then the user", short(feedback))] if feedback else []
    return [("disliked" if label == "dsat" else "liked", short(reply)), *said]


def _item(kind: str, prompt: list[dict[str, str]]) -> Item:
    said = [message["content"] for message in prompt if message["role"] != "system"]
    return {"kind": kind, "prompt": short(said[-1]) if said else "", "turns": len(said), "logged": [], "replies": []}
