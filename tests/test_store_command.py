"""`drift store`: what it counts, what it finds unused, what it removes, and what it never touches. Processes are real ones."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT

from drift.__main__ import main
from drift.folders import OWNER
from drift.store import Store, used_together
from drift.store.inventory import take_stock
from drift.store.users import uses, wait_for_removal

COMPUTE = """
import sys
from pathlib import Path
from drift.store import Store
store = Store(dir=sys.argv[1], strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
user = store.used_by(Path(sys.argv[2])) if sys.argv[2] else None
def quick(progress, output):
    (output / "out.bin").write_bytes(b"q" * 2000)
    return {}
def slow(progress, output):
    (progress / "last.ckpt").write_bytes(b"p" * 3000)
    (output / "half.bin").write_bytes(b"h" * 1000)
    print("working", flush=True)
    sys.stdin.read()
    return {}
store.run("quick", quick, version=1, settings={}, inputs={})
store.run("slow", slow, version=1, settings={}, inputs={})
"""


def stage(folder, kind, number, size, *, users=()):
    """A finished stage with a file of that size; returns its directory."""

    def work(progress, output):
        (output / "out.bin").write_bytes(b"x" * size)
        return {}

    store = Store(dir=str(folder), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
    store.users.extend(users)
    return store.run(kind, work, version=1, settings={"number": number}, inputs={}).path


def run_folder(path, store, *stages, status="finished", end=True):
    """A run folder that has asked for stages: (kind, number, size); returns their directories. `end`: it came to its end."""
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"status": status}))
    user = Store(dir=str(store), strict=False, verify=False, lease_seconds=60.0, keep_policies="all").used_by(path)
    made = [stage(store, *one, users=[user]) for one in stages]
    user.end(finished=end)
    return made


def command(monkeypatch, *words):
    """`drift store WORDS` in this process: the exit message, or None."""
    monkeypatch.setattr(sys, "argv", ["drift", "store", *map(str, words)])
    try:
        main()
    except SystemExit as ended:
        return ended.code
    return None


def payload(stages):
    """Bytes of the manifests and of everything else in stages."""
    return sum(file.stat().st_size for path in stages for file in path.rglob("*") if file.is_file())


def lines(text, start):
    return [line.split() for line in text.splitlines() if line.strip().startswith(start)]


def test_sizes_by_stage_and_by_run_and_what_nothing_refers_to(tmp_path, monkeypatch, capsys):
    """Run a: one file of 3 MB, and one of 2 MB that run b has too; 1.5 MB belong to a folder that was deleted; 1 MB to no one. A
    manifest has less than 2 kB."""
    store = tmp_path / "outputs/store"
    run_folder(tmp_path / "outputs/runs/a", store, ("train", 1, 3_000_000), ("replies", 1, 2_000_000))
    run_folder(tmp_path / "outputs/runs/b", store, ("replies", 1, 2_000_000))
    (gone,) = run_folder(tmp_path / "elsewhere/c", store, ("train", 2, 1_500_000))
    (tmp_path / "elsewhere/c/run.json").unlink()
    (tmp_path / "elsewhere/c").rmdir()
    alone = stage(store, "replies", 3, 1_000_000)
    assert command(monkeypatch, store) is None
    told = capsys.readouterr().out
    assert lines(told, "train") == [["train", "2", "4.5", "MB", "0", "0", "B", "1.5", "MB"]]
    assert lines(told, "replies") == [["replies", "2", "3.0", "MB", "0", "0", "B", "1.0", "MB"]]
    (one,), (two,) = lines(told, f"{tmp_path}/outputs/runs/a"), lines(told, f"{tmp_path}/outputs/runs/b")
    assert one[1:] == ["finished", "2", "5.0", "MB", "3.0", "MB"] and two[1:] == ["finished", "1", "2.0", "MB", "0", "B"]
    assert "Nothing refers to 2 entries, 2.5 MB." in told and f"can't be found: {tmp_path}/elsewhere/c" in told
    assert {entry.path for entry in take_stock(store).removable} == {gone, alone}


def test_nothing_goes_without_delete_and_then_exactly_what_was_listed(tmp_path, monkeypatch, capsys):
    store = tmp_path / "store"
    kept = run_folder(tmp_path / "runs/a", store, ("train", 1, 50_000), ("replies", 1, 10_000))
    free = [stage(store, "replies", number, 20_000) for number in (2, 3)]
    expected = f"2 entries, {payload(free) / 1000:.1f} kB"
    before = sorted(store.rglob("*"))
    assert command(monkeypatch, store, "--unused") is None
    told = capsys.readouterr().out
    assert f"Dry run: {expected} would be removed." in told and all(str(path) in told for path in free)
    assert sorted(store.rglob("*")) == before
    assert command(monkeypatch, store, "--unused", "--delete") is None
    assert f"Removed: {expected}." in capsys.readouterr().out
    assert not any(path.exists() for path in free) and all((path / "out.bin").is_file() for path in kept)
    assert sorted(path.name for path in store.iterdir()) == ["replies", "runs", "train"] and not list(store.glob("*/*.gone.*"))
    assert command(monkeypatch, store, "--unused", "--delete") is None and "Removed: 0 entries, 0 B." in capsys.readouterr().out


def test_only_what_is_older_goes_with_an_age(tmp_path, monkeypatch, capsys):
    store = tmp_path / "store"
    old, new = (stage(store, "replies", number, 1000) for number in (1, 2))
    then = time.time() - 15 * 86400
    for file in old.iterdir():
        os.utime(file, (then, then))
    os.utime(old, (then, then))
    assert command(monkeypatch, store, "--older-than", "16d", "--delete") is None and old.exists()
    assert command(monkeypatch, store, "--older-than", "2w", "--delete") is None and not old.exists() and new.exists()
    assert "--older-than soon: expected a number of hours, days or weeks" in command(monkeypatch, store, "--older-than", "soon")
    assert "Add --unused, or --older-than" in command(monkeypatch, store, "--delete") and new.exists()


HOLD = """
import sys
from pathlib import Path
from drift.store.users import removing
with removing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def working(store, run):
    process = subprocess.Popen(
        [sys.executable, "-c", COMPUTE, str(store), str(run)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "working\n"
    return process


def test_a_process_that_works_keeps_everything_and_a_killed_run_its_progress_while_its_folder_is_there(
    tmp_path, monkeypatch, capsys
):
    """With a run folder all its stages are kept; without one (another program) what it holds a lease for."""
    store, run = tmp_path / "store", tmp_path / "runs/a"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"status": "running"}')
    with working(store, run) as process:
        assert command(monkeypatch, store, "--unused", "--delete") is None
        assert kinds(store) == ["lease", "output", "progress"] and len(list(store.glob("quick/*"))) == 1
        capsys.readouterr()
        assert command(monkeypatch, store) is None
        told = capsys.readouterr().out
        assert lines(told, str(run))[0][1:3] == ["running", "1"]
        assert "In progress: 2 stages of processes that may be alive." in told
        (use,) = store.glob("runs/*.use")
        use = use.rename(tmp_path / use.name)
        assert command(monkeypatch, store, "--unused", "--delete") is None
        assert kinds(store) == ["lease", "output", "progress"] and list(store.glob("quick/*")) == []
        process.kill()
    use.rename(store / "runs" / use.name)
    capsys.readouterr()
    assert command(monkeypatch, store) is None
    assert lines(capsys.readouterr().out, str(run))[0][1] == "killed"
    assert command(monkeypatch, store, "--unused", "--delete") is None
    assert kinds(store) == ["progress"]  # to resume from; nobody needs the lease and the outputs
    (run / "run.json").unlink()
    run.rmdir()
    assert command(monkeypatch, store, "--unused", "--delete") is None
    assert kinds(store) == [] and uses(store) == [] and command(monkeypatch, store) is None


def kinds(store):
    return sorted(path.name.split(".")[1] for path in store.glob("slow/*"))


def test_whoever_asks_for_a_stage_while_something_is_removed_waits_and_what_is_asked_for_meanwhile_stays(tmp_path):
    """The remover knows it as free; then a run asks for it; then the remover begins."""
    from drift.store.removal import remove

    store, run = tmp_path / "store", tmp_path / "runs/a"
    path = stage(store, "replies", 1, 1000)
    stock = take_stock(store)
    assert [entry.path for entry in stock.removable] == [path]
    run_folder(run, store, ("replies", 1, 1000))
    removed = remove(store, stock.removable, stock.used, stock.outdated)
    assert (path / "out.bin").is_file() and [entry.path for entry in removed.kept] == [path] and not removed.entries
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(store)], cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        threading.Timer(0.5, process.communicate, ["go on\n"]).start()
        begun = time.monotonic()
        wait_for_removal(store)
        assert time.monotonic() - begun > 0.4
    wait_for_removal(store)  # nobody holds it


def test_links_are_not_followed_and_what_others_put_there_stays(tmp_path, monkeypatch, capsys):
    store, precious = tmp_path / "store", tmp_path / "precious"
    precious.mkdir()
    (precious / "mine.txt").write_text("mine")
    path = stage(store, "replies", 1, 1000)
    (path / "link").symlink_to(precious)
    (store / "replies" / ("0a" * 12)).symlink_to(precious)
    (store / "replies" / f"{'0b' * 12}.output.{'0c' * 8}").symlink_to(precious)
    (store / "linked").symlink_to(precious)
    (store / "notes.txt").write_text("mine")
    (store / "replies" / "notes").mkdir()
    (store / "replies" / ("0d" * 12)).write_text("a file")
    assert command(monkeypatch, store) is None and "Not made by this program, and left alone" in capsys.readouterr().out
    assert command(monkeypatch, store, "--unused", "--delete") is None
    assert not path.exists() and (precious / "mine.txt").read_text() == "mine"
    assert sorted(one.name for one in store.iterdir()) == ["linked", "notes.txt", "replies", "runs"]
    assert len(list((store / "replies").iterdir())) == 4


def test_damaged_stages_and_what_killed_processes_left_are_listed_and_go(tmp_path, monkeypatch, capsys):
    store = tmp_path / "store"
    path = stage(store, "replies", 1, 1000)
    (path / "out.bin").write_bytes(b"x" * 10)
    names = [f"{'0b' * 12}.{kind}.{'0c' * 8}" for kind in ("output", "progress", "damaged", "gone")]
    for name in names:
        (store / "replies" / name).mkdir()
    (store / "replies" / f"{'0b' * 12}.lease").write_text("{}")
    os.utime(store / "replies" / f"{'0b' * 12}.lease", (1, 1))
    assert command(monkeypatch, store, "--unused") is None
    found = sorted(line[0] for line in lines(capsys.readouterr().out, ("damaged", "unfinished", "saved", "half", "lease")))
    assert found == ["damaged", "damaged", "half", "lease", "saved", "unfinished"]
    assert command(monkeypatch, store, "--unused", "--delete") is None and list((store / "replies").iterdir()) == []


def test_renamed_and_old_run_folders_are_found_by_their_links_and_moved_ones_where_they_are_said_to_be(tmp_path, monkeypatch):
    store = tmp_path / "outputs/store"
    made = [stage(store, "train", number, 1000) for number in (1, 2, 3)]  # nobody has written down that it uses them
    folders = [tmp_path / "outputs/studies/x/0-drift", tmp_path / "far/away/run", tmp_path / "runs/b"]
    for folder, path in zip(folders, made, strict=True):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text('{"status": "finished"}')
        (folder / "steps.jsonl").symlink_to(os.path.relpath(path / "out.bin", folder))
    assert {entry.path for entry in take_stock(store).removable} == set(made[1:])
    assert {entry.path for entry in take_stock(store, [tmp_path / "far"]).removable} == {made[2]}
    run_folder(tmp_path / "runs/a", store, ("train", 4, 1000))  # beside it stands b, which was c once
    assert {entry.path for entry in take_stock(store).removable} == {made[1]}


def test_a_renamed_run_keeps_what_it_has_asked_for_without_a_link(tmp_path, monkeypatch):
    """The folder says of which settings it is; that of other settings keeps nothing. A second run of the same settings changes
    nothing, and without any folder of theirs the stages are free."""
    store, runs = tmp_path / "store", tmp_path / "runs"
    runs.mkdir()
    for name, owner in (("a", "settings 1"), ("b", "settings 2")):
        (runs / name).mkdir()
        (runs / name / OWNER).write_text(owner)
        (runs / name / "run.json").write_text('{"status": "stopped"}')
    user = Store(dir=str(store), strict=False, verify=False, lease_seconds=60.0, keep_policies="all").used_by(runs / "a")
    made = stage(store, "replies", 1, 1000, users=[user])
    user.end(finished=False)
    (runs / "a").rename(runs / "renamed")
    assert take_stock(store, [runs]).removable == [] and take_stock(store, [runs]).gone == []
    assert command(monkeypatch, store, "--unused", "--delete", "--runs", runs) is None and made.is_dir()
    shutil.rmtree(runs / "renamed")
    assert [entry.path for entry in take_stock(store, [runs]).removable] == [made]


def test_the_base_model_of_an_adapter_in_use_is_in_use(tmp_path):
    store = tmp_path / "store"
    base, free = (stage(store, "train", number, 1000) for number in (1, 2))

    def work(progress, output):
        (output / "policy").mkdir()
        (output / "policy" / "base.json").write_text(json.dumps({"directory": str(base / "policy")}))
        return {}

    run = tmp_path / "runs/a"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    using = Store(dir=str(store), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
    user = using.used_by(run)
    using.run("train", work, version=1, settings={"adapter": 1}, inputs={})
    user.end(finished=True)
    assert [entry.path for entry in take_stock(store).removable] == [free]


def test_the_policy_of_another_run_that_a_run_starts_from_is_in_use(tmp_path):
    """Its path is a link in the other run's folder, which was deleted since; it leads into a stage of the store."""
    store, link = tmp_path / "store", tmp_path / "runs/a/policy"
    path = stage(store, "train", 1, 1000)
    link.parent.mkdir(parents=True)
    link.symlink_to(path)
    (tmp_path / "runs/b").mkdir()
    (tmp_path / "runs/b/run.json").write_text("{}")
    using = Store(dir=str(store), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
    user = using.used_by(tmp_path / "runs/b")
    using.note(link, tmp_path)
    user.end(finished=True)
    link.unlink()
    link.parent.rmdir()
    assert take_stock(store).removable == [] and [use.stages for use in uses(store)] == [{f"train/{path.name}"}]


def test_an_earlier_use_of_the_same_folder_counts_until_a_later_one_came_to_its_end(tmp_path):
    store, run = tmp_path / "store", tmp_path / "runs/a"
    (old,) = run_folder(run, store, ("replies", 1, 1000), end=False)  # stopped
    for path in (run / "run.json", run):
        path.unlink() if path.is_file() else path.rmdir()
    (second,) = run_folder(run, store, ("replies", 2, 1000), end=False)
    assert take_stock(store).removable == []
    (run / "run.json").unlink()
    run.rmdir()
    run_folder(run, store, ("replies", 2, 1000))
    assert [entry.path for entry in take_stock(store).removable] == [old] and second.exists()


@pytest.mark.parametrize("name", ["empty", "precious", "absent"])
def test_a_folder_that_is_no_store_is_refused(tmp_path, monkeypatch, name):
    (tmp_path / "empty").mkdir()
    foreign = tmp_path / "precious" / "photos" / ("0a" * 12)
    foreign.mkdir(parents=True)
    message = command(monkeypatch, tmp_path / name, "--unused", "--delete")
    assert ("is not a folder" if name == "absent" else "is not a store") in message and foreign.is_dir()


def test_a_use_of_a_process_elsewhere_counts_until_it_gave_no_sign_of_life_for_a_day(tmp_path):
    store, run = tmp_path / "store", tmp_path / "runs/a"
    (path,) = run_folder(run, store, ("replies", 1, 1000), end=False)
    (use,) = uses(store)
    header, *rest = use.file.read_text().splitlines()
    moved = json.loads(header)
    moved["process"]["where"] = ["another boot", "pid:[1]"]
    use.file.write_text("\n".join([json.dumps(moved), *(line for line in rest if line != "ended"), ""]))
    (run / "run.json").unlink()
    run.rmdir()
    assert take_stock(store).removable == []
    then = time.time() - 86400 - 60
    os.utime(use.file, (then, then))
    assert [entry.path for entry in take_stock(store).removable] == [path]


def test_the_command_line_explains_itself():
    told = subprocess.run([sys.executable, "-m", "drift", "store", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0 and "--older-than" in told.stdout and "Exit code" in told.stdout
    wrong = subprocess.run([sys.executable, "-m", "drift", "store", "--al"], cwd=Path(ROOT), capture_output=True, text=True)
    assert wrong.returncode == 2


def test_several_stores_that_work_for_one_folder_are_one_use_of_it(tmp_path):
    """Two uses that both came to their end would leave only the later one's stages in use."""
    place, folder = tmp_path / "store", tmp_path / "signal"
    stores = [Store(dir=str(place), strict=False, verify=False, lease_seconds=60.0, keep_policies="all") for _ in range(2)]
    users = used_together(stores, folder)
    for number, one in enumerate(stores):
        stage(place, "replies", number, 10, users=one.users)
    folder.mkdir()
    (folder / "signal.json").write_text("{}")
    for user in users:
        user.end(finished=True)
    assert len(users) == 1 and take_stock(place).removable == []
