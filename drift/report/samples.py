"""What the sample browser of a report shows: the same prompt, answered by every run, side by side."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from drift.records import digest, read_jsonl, read_records

NUM_SHOWN = 120  # of each kind: a page stays a few megabytes

Item = dict[str, Any]  # kind, prompt, logged: [(title, text)], replies: [(title, text, remark, note)]


def items(folders: Mapping[str, Path]) -> list[Item]:
    """`folders`: what a run is called -> its folder."""
    return [*answers(folders), *trained_on(folders)]


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


def answers(folders: Mapping[str, Path]) -> list[Item]:
    """Evaluation prompts with the first reply of the start model (of each, where runs differ in it or in how it was sampled) and of
    every run's last policy (same noise)."""
    found: dict[str, Item] = {}
    starts: dict[Path, str] = {}
    for name, folder in folders.items():
        if (file := folder / "iteration_0/replies.jsonl").is_file():
            starts.setdefault(file.resolve(), name)  # runs with the same start share the stage
    columns = [("start model" if len(starts) == 1 else f"start model ({name})", file) for file, name in starts.items()]
    for title, file in [*columns, *((name, last(folder, "replies.jsonl", warm_start=True)) for name, folder in folders.items())]:
        if file is None or not file.is_file():
            continue
        for row in read_jsonl(file):
            item = found.setdefault(digest(row["prompt"]), _item("evaluation", row["prompt"]))
            if not item["logged"] and "logged" in row:
                item["logged"] = _logged(row["label"], row["logged"], row["feedback"])
            if title not in [known for known, *_ in item["replies"]]:
                remark = {True: "useful", False: "not useful", None: ""}[row.get("useful")]
                item["replies"].append((title, row["reply"], remark, shape(row)))
    return list(found.values())[:NUM_SHOWN]


def trained_on(folders: Mapping[str, Path]) -> list[Item]:
    """Logged replies with what the user said to them, and the fresh replies that each run's last pairs set against them."""
    found: dict[str, Item] = {}
    for title, folder in folders.items():
        if (file := last(folder, "pairs.jsonl")) is None:
            continue
        refreshed = file.parent / "records.jsonl"  # where the iteration has a log of its own
        log = refreshed if refreshed.is_file() else folder / "records.jsonl"
        if not log.is_file():
            continue
        records = {record.id: record for record in read_records(log)}
        for pair in read_jsonl(file):
            record = records.get(pair["record"])
            item = found.setdefault(record.key if record else pair["record"], _item("training", pair["prompt"]))
            if record is not None and not item["logged"]:
                item["logged"] = _logged(record.label, record.reply, record.feedback)
            item["replies"] += [(title, pair[side], side, "" if pair[f"{side}_ended"] else "cut off") for side in pair["fresh"]]
    return sorted(found.values(), key=lambda item: -len({title for title, *_ in item["replies"]}))[:NUM_SHOWN]


def last(folder: Path, name: str, *, warm_start: bool = False) -> Path | None:
    """The file of that name of the last iteration that has it, the start model's (iteration_0) left out; else the warm start's."""
    files = sorted(folder.glob(f"iteration_[1-9]*/{name}"), key=lambda file: int(file.parent.name.split("_")[1]))
    first = folder / "warm_start" / name
    return files[-1] if files else first if warm_start and first.is_file() else None


def shape(row: Mapping[str, Any]) -> str:
    """Length, end and repetition of a reply, as far as its row says."""
    found = [f"{row['words']} words"] if "words" in row else []
    found += ["cut off"] if row.get("ended") is False else []
    return ", ".join(found + ([f"distinct-2 {row['distinct-2']:.2f}"] if "distinct-2" in row else []))


def _logged(label: str, reply: str, feedback: str | None) -> list[tuple[str, str]]:
    return [("disliked" if label == "dsat" else "liked", reply), *([("then the user", feedback)] if feedback else [])]


def _item(kind: str, prompt: list[dict[str, str]]) -> Item:
    said = [message["content"] for message in prompt if message["role"] != "system"]
    return {"kind": kind, "prompt": said[-1], "turns": len(said), "logged": [], "replies": []}
