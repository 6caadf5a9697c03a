"""`drift agree`: how far two judges agree, or a judge and the users, on a file of records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drift.compose import compose
from drift.config import build_part
from drift.errors import UserError
from drift.overrides import literal, override, quote_paths
from drift.report import agreement


def agree(a: str, b: str, records: Path, max_records: int | None, out: Path | None, overrides: Sequence[str]) -> None:
    """`a`, `b`: users, or the name of a judge. `records`: the file. `overrides`: settings of the judges, "a.NAME=VALUE"."""
    quote_paths([str(records), str(out or "")])  # refuses a name that is not UTF-8
    if a == b == "users":
        raise UserError("Expected at least one judge: drift agree users llm RECORDS.")
    if max_records is not None and max_records < 1:
        raise UserError(f"--max-records {max_records}: expected at least 1.")
    judges = [(name, judge_of(side, name, overrides)) for side, name in (("a", a), ("b", b))]
    log = compose(["data=records", override("data.path", literal(str(records)))]).data
    agreement.agree(judges, build_part(log, "data"), max_records, out or records.with_suffix(f".{a}-{b}.json"))


def judge_of(side: str, name: str, overrides: Sequence[str]) -> Any:
    """The judge that is one side of a comparison; None for the users. `overrides`: of both sides, "a.NAME=VALUE"."""
    given = [(item.lstrip("+"), "+" * (len(item) - len(item.lstrip("+")))) for item in overrides]
    for item, _ in given:
        if not item.startswith(("a.", "b.")):
            raise UserError(f"{item}: expected a setting of one of the two judges, a.{item} or b.{item}.")
    own = [(item.removeprefix(f"{side}."), plus) for item, plus in given if item.startswith(f"{side}.")]
    if name == "users":
        if own:
            raise UserError(f"{side}.{own[0][0]}: users have no settings.")
        return None
    try:
        config = compose(["method=iterdpo", f"judge={name}", *(f"{plus}method.judge.{item}" for item, plus in own)])
        return build_part(config.method.judge, side)
    except UserError as error:
        raise UserError(str(error).replace("method.judge.", f"{side}.")) from error
