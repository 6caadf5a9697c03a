"""Models that the program makes itself: whole or not there, made again if damaged, and nothing left over."""

import os
import time

import pytest

from drift.model.cached import made_once


def maker(calls):
    def make(scratch):
        calls.append(scratch)
        (scratch / "model").mkdir()
        (scratch / "model" / "weights").write_text("right")

    return make


DAMAGE = {
    "flipped": lambda folder: (folder / "weights").write_text("wrong"),
    "empty": lambda folder: (folder / "weights").write_text(""),
    "missing": lambda folder: (folder / "weights").unlink(),
    "its seal empty": lambda folder: (folder / ".seal").write_text(""),
    "its seal a list": lambda folder: (folder / ".seal").write_text("[]"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_model_is_reported_and_created_again(tmp_path, capsys, how):
    calls = []
    for _ in range(2):
        made_once(tmp_path / "m", maker(calls))
    assert len(calls) == 1 and capsys.readouterr().out == ""
    DAMAGE[how](tmp_path / "m")
    for _ in range(2):
        assert (made_once(tmp_path / "m", maker(calls)) / "weights").read_text() == "right"
    assert len(calls) == 2 and "m is damaged (" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_slower_process_takes_the_finished_model_and_a_failure_leaves_nothing(tmp_path):
    def slow(scratch):
        made_once(tmp_path / "m", maker([]))
        (scratch / "model").mkdir()
        (scratch / "model" / "weights").write_text("of the slow one")

    def failing(scratch):
        (scratch / "model").mkdir()
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        made_once(tmp_path / "m", failing)
    assert not list(tmp_path.iterdir())
    assert (made_once(tmp_path / "m", slow) / "weights").read_text() == "right"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_scratch_folder_of_a_killed_process_is_removed_after_a_day(tmp_path):
    for name, days in (("m.making.old", 2), ("m.making.live", 0), ("other.making.old", 2)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - 86400 * days,) * 2)
    made_once(tmp_path / "m", maker([]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.making.live", "other.making.old"]
