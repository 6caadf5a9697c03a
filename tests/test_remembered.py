"""Facts about files, remembered across processes."""

import os
import subprocess
import sys

import pytest

from drift.errors import UserError
from drift.model import remembered as module
from drift.model.remembered import passed, remembered


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SETTLED_SECONDS", -1e9)
    made = tmp_path / "model" / "weights"
    made.parent.mkdir()
    made.write_bytes(b"one")
    return made


def asked(file, calls, what="size"):
    def find():
        calls.append(what)
        return str(len(file.read_bytes()))

    return remembered(what, [file], find)


def test_a_fact_is_found_out_once(file):
    calls = []
    assert [asked(file, calls), asked(file, calls), asked(file, calls, "length")] == ["3", "3", "3"]
    assert calls == ["size", "length"]


def test_a_changed_file_is_another_file(file):
    calls, status = [], file.stat()
    asked(file, calls)
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # the time of the last change of its status still tells
    asked(file, calls)
    other = file.with_name("copy")
    other.write_bytes(b"two")
    os.replace(other, file)
    assert asked(file, calls) == "3" and len(calls) == 3


@pytest.mark.parametrize("damage", [lambda kept: kept[:-2], lambda kept: b"4" + kept[1:], lambda kept: b"", lambda kept: b"\xff"])
def test_a_damaged_memory_is_none(file, damage, tmp_path):
    calls = []
    asked(file, calls)
    [kept] = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    kept.write_bytes(damage(kept.read_bytes()))
    assert asked(file, calls) == "3" and len(calls) == 2


def test_what_has_just_changed_may_change_again_unseen(file, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_SECONDS", 60.0)
    calls = []
    asked(file, calls)
    asked(file, calls)
    assert len(calls) == 2


def test_nothing_is_remembered_where_nothing_can_be_kept(file, tmp_path):
    (tmp_path / "cache").write_text("in the way of a folder")
    calls = []
    assert [asked(file, calls), asked(file, calls)] == ["3", "3"] and len(calls) == 2


def test_only_a_check_that_passed_is_remembered(file):
    calls, wrong = [], True

    def check():
        calls.append(1)
        if wrong:
            raise UserError("no")

    for _ in range(2):
        with pytest.raises(UserError):
            passed(passed, [file.parent], {}, check)
    wrong = False
    passed(passed, [file.parent], {}, check)
    passed(passed, [file.parent], {}, check)
    passed(passed, [file.parent], {"longest": 2}, check)
    assert len(calls) == 4
    (file.parent / "more").write_text("another shard")
    passed(passed, [file.parent], {}, check)
    assert len(calls) == 5


def test_a_process_that_finds_everything_imports_no_model_code(tmp_path):
    """Which takes seconds: see `registered` in score/attention.py and `passed`."""
    code = "import sys, drift.loop, drift.start, drift.score.shared, drift.score.plan; print('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
