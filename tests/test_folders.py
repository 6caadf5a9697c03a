"""A run folder has one owner: another run gets another folder, and a folder that is used again holds nothing of the run before."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from drift.errors import UserError
from drift.folders import kept, owned

HOLD = """
import sys
from pathlib import Path
from drift.folders import owned
with owned(Path(sys.argv[1]), "the same", "hydra.run.dir") as mine:
    (mine / "steps.csv").write_text("step")
    print("held", flush=True)
    sys.stdin.read()
"""


def take(folder, settings):
    with owned(folder, settings, "hydra.run.dir") as mine:
        return mine.name


def test_runs_that_go_on_at_once_get_folders_of_their_own(tmp_path, capsys):
    wanted = tmp_path / "run"
    with owned(wanted, "a", "hydra.run.dir") as one, owned(wanted, "a", "hydra.run.dir") as two, owned(wanted, "b", "k") as three:
        assert [one, two, three] == [wanted, tmp_path / "run-2", tmp_path / "run-3"]
    assert "belongs to another run; this one is in" in capsys.readouterr().out


def test_the_folder_of_a_killed_run_is_taken_over_by_the_same_settings_and_holds_nothing_of_it(tmp_path):
    wanted = tmp_path / "run"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(wanted)], cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        assert take(wanted, "the same") == "run-2"  # while it lives
        process.kill()
    (wanted / "iteration_1").mkdir()
    (wanted / "notes.txt").write_text("mine")
    assert take(wanted, "others") == "run-3"
    assert (wanted / "steps.csv").is_file()
    assert take(wanted, "the same") == "run"
    assert sorted(path.name for path in wanted.iterdir()) == [".owner", "notes.txt"]


def test_files_without_an_owner_are_not_overwritten(tmp_path):
    (tmp_path / "records.jsonl").write_text("what somebody mined")
    assert take(tmp_path, "a") == f"{tmp_path.name}-2"
    assert (tmp_path / "records.jsonl").read_text() == "what somebody mined" and not (tmp_path / ".owner").exists()


def test_an_owner_that_a_power_cut_emptied_owns_nothing_that_would_be_written_over(tmp_path):
    for name in ("run", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".owner").write_text("")
    (tmp_path / "run" / "run.json").write_text("{}")
    assert [take(tmp_path / "run", "a"), take(tmp_path / "new", "a")] == ["run-2", "new"]
    assert (tmp_path / "run" / "run.json").is_file()


def test_an_owner_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".owner").symlink_to(tmp_path / "precious")
    assert take(tmp_path / "run", "a") == "run-2"
    assert (tmp_path / "precious").read_text() == ""


def test_without_locks_only_a_new_folder_is_taken(tmp_path, monkeypatch):
    """Some cluster file systems have none."""

    def flock(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    assert [take(tmp_path / "run", "a"), take(tmp_path / "run", "a")] == ["run", "run-2"]


def under_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "run"


def that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


def with_a_name_too_long(tmp_path):
    return tmp_path / ("x" * 300)


@pytest.mark.parametrize("place", [under_a_file, that_is_a_file, with_a_name_too_long])
def test_a_folder_that_cannot_be_made_is_named_with_its_setting(tmp_path, place):
    with pytest.raises(UserError, match="can't be written to: .*hydra.run.dir=FOLDER"):
        take(place(tmp_path), "a")


def test_a_full_disk_in_a_stage_is_one_sentence_and_errors_about_other_files_pass(tmp_path):
    from drift.store import Store

    store = Store(dir=str(tmp_path / "store"), strict=False, verify=False, lease_seconds=30.0, keep_policies="all")

    def run(work):
        store.run("kind", work, version=1, settings={}, inputs={})

    def on_a_full_disk(progress, output):
        with open("/dev/full", "w") as file:
            file.write("x" * 10000)

    def in_the_words_of_a_library(progress, output):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    def hidden_by_a_library(progress, output):
        try:
            on_a_full_disk(progress, output)
        except OSError:
            raise RuntimeError("unexpected pos 768 vs 662")  # noqa: B904

    def without_a_file(progress, output):
        os.stat(tmp_path / "log.jsonl")

    def in_a_log_that_may_not_be_read(progress, output):
        raise PermissionError(13, "Permission denied", str(tmp_path / "log.jsonl"))

    with pytest.raises(UserError, match="can't be written to: No space left on device. .*store.dir=FOLDER"):
        run(on_a_full_disk)
    for work in (in_the_words_of_a_library, hidden_by_a_library):
        with pytest.raises(UserError, match="No space left on device. .*store.dir=FOLDER"):
            run(work)
    assert not list((tmp_path / "store").glob("kind/*"))  # a full disk is not made fuller
    with pytest.raises(FileNotFoundError):
        run(without_a_file)
    with pytest.raises(PermissionError):
        run(in_a_log_that_may_not_be_read)


def test_a_rank_removes_what_a_run_with_this_config_left_and_nothing_of_the_users_or_of_another_run(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "records.jsonl").write_text("the user's log\n")
    (tmp_path / "iteration_notes").mkdir()
    with (
        pytest.raises(UserError, match=r"contains (records\.jsonl|iteration_notes), which a run with this config\.yaml would"),
        kept(tmp_path),
    ):
        pass
    assert (tmp_path / "records.jsonl").read_text() == "the user's log\n" and (tmp_path / "iteration_notes").is_dir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "ranks").mkdir()  # of another rank, which was faster
    for _ in range(2):
        with kept(run), pytest.raises(UserError, match="Another process is running"), kept(run):
            pass
        (run / "records.jsonl").write_text("{}\n")
    with kept(run):
        assert sorted(path.name for path in run.iterdir()) == [".owner", "config.yaml"]
        (run / "run.json").write_text("{}")
    (run / "config.yaml").write_text("seed: 1\n")
    with (
        pytest.raises(UserError, match=r"contains run\.json, which a run with this config\.yaml would replace and did not write"),
        kept(run),
    ):
        pass
    assert (run / "run.json").is_file()
