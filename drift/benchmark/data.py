"""Where benchmarks' data come from: files of installed packages (found without importing them), hub data sets in the local cache,
files of a pinned wheel. Nothing else is fetched."""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drift.errors import UserError, need_package
from drift.model.cached import cache, made_once
from drift.records import digest
from drift.wheel import extract


def packaged(package: str, path: str, benchmark: str) -> Path:
    """A file of an installed package of the extra `benchmarks`. `benchmark`: its name, for messages."""
    need_package(package, benchmark, extra="benchmarks")
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / path
    if not file.is_file():
        raise UserError(
            f"{benchmark} needs {file}, which this version of {package} lacks. Install: pip install 'drift[benchmarks]'."
        )
    return file


def constants(file: Path) -> dict[str, Any]:
    """The texts and tables of texts that a Python module assigns to names, read without running it."""
    known: dict[str, Any] = {}

    def value_of(node: ast.expr | None) -> Any:
        if isinstance(node, ast.Dict):
            return {value_of(key): value_of(value) for key, value in zip(node.keys, node.values, strict=True)}
        return known.get(node.id) if isinstance(node, ast.Name) else getattr(node, "value", None)

    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            known[node.targets[0].id] = value_of(node.value)
    return known


def wheel_files(requirement: str, members: Mapping[str, str], cache_dir: str | None, *, setting: str) -> Path:
    """The folder with files of a wheel that is fetched once per machine. `members`: path in the wheel -> sha256 of the file, which
    is kept under its own name. `setting`: the one that chooses another cache folder."""

    def make(scratch: Path) -> None:
        print(f"First use of {requirement}: fetching its data files (once) ...", flush=True)
        instead = f"put {', '.join(Path(member).name for member in members)} into {final}"
        (scratch / "model").mkdir()
        for file in extract(requirement, members, scratch, instead=instead):
            file.rename(scratch / "model" / file.name)

    final = cache(cache_dir) / "benchmarks" / f"{requirement}-{digest(dict(members))[:8]}"
    folder = made_once(final, make, setting=setting)
    for member, sha256 in members.items():
        if hashlib.sha256((folder / Path(member).name).read_bytes()).hexdigest() != sha256:
            raise UserError(f"{folder / Path(member).name} is not the file of {requirement}. Delete {folder}; it is fetched again.")
    return folder


def hub_rows(path: str, config: str | None, split: str | None, setting: str) -> Iterator[tuple[str, Any]]:
    """(file and row number, row) for every row of a file, or of a hub data set in the local cache. `setting`: the part whose
    `path`, `config` and `split` these are."""
    from drift.intake.aside import BadRow
    from drift.intake.files import find_files
    from drift.intake.rows import read_rows

    try:
        files = find_files(path, "*", config=config, split=split)
    except UserError as error:
        text = re.sub(r"\bdata\.(path|config|split)\b", rf"{setting}.\1", str(error))
        instead = f" (or name a file of it: {setting}.path=FILE {setting}.config=null {setting}.split=null)"
        raise UserError(text + (instead if "hf download" in text else "")) from None
    for file in files:
        for number, row in read_rows(file):
            if isinstance(row, BadRow):
                raise UserError(f"{file}, row {number}: {row.field}: expected {row.expected}, found {row.found}.")
            yield f"{file}, row {number}", row


def need_fields(row: Any, kinds: Mapping[str, type | tuple[type, ...]], where: str) -> Any:
    """The row, if it is an object whose fields have these types."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}.")
    for name, kind in kinds.items():
        if not isinstance(row.get(name), kind):
            names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
            found = type(row[name]).__name__ if name in row else "nothing"
            raise UserError(f"{where}: {name}: expected {names}, found {found}.")
    return row


def hub_file(repository: str, name: str, setting: str, otherwise: str) -> Path:
    """A file of a hub data set, from the cache of `hf download`. `otherwise`: what else can be done if it is not there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{setting}: {name} of the data set {repository} is not in the local Hugging Face cache, and a run never downloads by "
            f"itself. Fetch it first: hf download --repo-type dataset {repository} {name} ({otherwise})"
        ) from error
