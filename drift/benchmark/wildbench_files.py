"""WildBench's official result files: JSON lists, also as .json.gz. No file is skipped for its name (the official scripts skip those
whose names contain 128, 256, …, 1024), and rows are matched by session id, not by their order.

Replies: {"session_id", "chat_history", "model_input", "output": ["…"], "generator", "configs", "dataset", "primary_tag"}.
Grades: {"session_id", "parsed_result": {"strengths", "weaknesses", "score"}, "meta_data", "model_test", "score", "model_output"}.
Pairs: {"session_id", "parsed_result": {…, "choice"}, "meta_data", "model_A", "model_B", "winner", "extent": 0 | 1 | 2,
"model_outputs": {model: text}}."""

import gzip
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from drift.benchmark.data import need_fields
from drift.benchmark.wildbench import Compared, Graded, WildBenchTask
from drift.errors import UserError
from drift.files import replace

NUMBER = (int, float, str)


@cache
def read_replies(path: str) -> dict[str, str]:
    """Session id -> reply."""
    replies = {}
    for where, row in _rows(path, {"session_id": str, "output": (list, str)}):
        output = row["output"][0] if isinstance(row["output"], list) and row["output"] else row["output"]
        if not isinstance(output, str):
            raise UserError(f"{where}: output: expected a text, or a list that begins with one.")
        replies[row["session_id"]] = output
    return replies


def write_replies(
    path: Path, model: str, replies: Mapping[str, str], tasks: Sequence[WildBenchTask], configs: Mapping[str, Any]
) -> None:
    """`configs`: how the replies were sampled."""
    rows = [
        {
            "session_id": task.key,
            "chat_history": [message["content"] for message in task.prompt],
            "model_input": "n/a",
            "output": [replies[task.key]],
            "generator": model,
            "configs": dict(configs),
            "dataset": "wild_bench",
        }
        for task in tasks
    ]
    _write(path, rows)


def read_grades(path: Path) -> list[Graded]:
    """The rows of a score file."""
    rows = _rows(str(path), {"session_id": str, "score": NUMBER, "model_output": str})
    return [Graded(key=row["session_id"], grade=_number(row["score"], where), reply=row["model_output"]) for where, row in rows]


def write_grades(path: Path, model: str, rows: Sequence[Graded], answers: Mapping[str, Mapping[str, Any]]) -> None:
    """`answers`: session id -> the judge's answer as JSON; {} where it was not asked."""
    found = [
        {
            "session_id": row.key,
            "parsed_result": dict(answers.get(row.key, {})),
            "meta_data": {},
            "model_test": model,
            "score": f"{row.grade:g}",
            "model_output": row.reply,
        }
        for row in rows
    ]
    _write(path, found)


def read_pairs(path: Path, model: str) -> list[Compared]:
    """The rows of a pairwise file, seen from `model`."""
    kinds = {"session_id": str, "winner": str, "extent": int, "model_A": str, "model_B": str, "model_outputs": dict}
    pairs = []
    for where, row in _rows(str(path), kinds):
        names = {row["model_A"], row["model_B"]}
        if model not in names or len(names) != 2 or names != set(row["model_outputs"]):
            raise UserError(f"{where}: expected model_A and model_B to be {model} and a baseline, and the replies of both.")
        if (
            row["extent"] not in (0, 1, 2)
            or row["winner"] not in (*names, "tie")
            or (row["winner"] == "tie") != (row["extent"] == 0)
        ):
            raise UserError(f"{where}: expected a winner with extent 1 or 2, or a tie with extent 0.")
        points = row["extent"] / 2 if row["winner"] == model else row["extent"] / -2
        (other,) = names - {model}
        texts = row["model_outputs"]
        pairs.append(Compared(key=row["session_id"], points=points + 0.0, reply=texts[model], baseline=texts[other]))
    return pairs


def write_pairs(path: Path, model: str, baseline: str, rows: Sequence[Compared], swapped: frozenset[str]) -> None:
    """`swapped`: the sessions whose baseline was shown first, as A."""
    found = []
    for row in rows:
        winner = "tie" if row.points == 0 else model if row.points > 0 else baseline
        shown = (baseline, model) if row.key in swapped else (model, baseline)
        letter = "A" if winner == shown[0] else "B"
        choice = "A=B" if winner == "tie" else letter + "+" * int(abs(row.points) * 2)
        found.append(
            {
                "session_id": row.key,
                "parsed_result": {"choice": choice},
                "meta_data": {},
                "model_A": shown[0],
                "model_B": shown[1],
                "winner": winner,
                "extent": int(abs(row.points) * 2),
                "model_outputs": {model: row.reply, baseline: row.baseline},
            }
        )
    _write(path, found)


def _rows(path: str, kinds: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(where, row) for every row of a file."""
    file = Path(path).expanduser()
    try:
        content = file.read_bytes()
        found = json.loads(gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}. Expected a WildBench result file, a JSON list.") from error
    if not isinstance(found, list):
        raise UserError(f"{path}: expected a JSON list, found {type(found).__name__}.")
    return [(f"{path}, row {number}", need_fields(row, kinds, f"{path}, row {number}")) for number, row in enumerate(found, 1)]


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UserError(f"{where}: score: expected a number, found {value!r}.") from error


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    replace(path, (json.dumps(rows, indent=2, ensure_ascii=False) + "\n").encode())
