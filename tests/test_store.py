"""Stages: keyed by content, finished by a rename, never half there, never used damaged; leases are taken over, and what a process
writes is its own; other environments are named."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from drift import files
from drift.errors import UserError
from drift.records import digest, write_text
from drift.store import Store, lease
from drift.store.lease import holder_of_this_process


def make(folder, **changes):
    return Store(**{"dir": str(folder), "strict": False, "verify": False, "lease_seconds": 30.0, "keep_policies": "all"} | changes)


def write(text, calls):
    def work(progress, output):
        calls.append(text)
        (output / "out.txt").write_text(text)
        return {"length": len(text)}

    return work


def run(store, calls, text="x", **changes):
    return store.run("kind", write(text, calls), **{"version": 1, "settings": {"a": 1}, "inputs": {"i": "h"}} | changes)


def test_the_same_stage_is_computed_once_and_other_keys_apart(tmp_path):
    store, calls = make(tmp_path), []
    first, again = run(store, calls), run(store, calls)
    assert (first.hit, again.hit, calls, again.facts) == (False, True, ["x"], {"length": 1})
    for change in ({"version": 2}, {"settings": {"a": 2}}, {"inputs": {"i": "g"}}):
        assert not run(store, calls, **change).hit
    assert sorted(p.name for p in first.path.iterdir()) == ["manifest.json", "out.txt"]


def test_a_stage_that_fails_leaves_no_finished_directory(tmp_path):
    def work(progress, output):
        (output / "half").write_text("x")
        raise RuntimeError("broken")

    store = make(tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        store.run("kind", work, version=1, settings={}, inputs={})
    assert not run(store, []).hit and not list(tmp_path.glob("kind/*.lease"))


def test_another_environment_warns_or_is_refused(tmp_path, capsys):
    calls = []
    stage = run(make(tmp_path), calls)
    manifest = json.loads((stage.path / "manifest.json").read_text())
    manifest["environment"]["torch"] = "1.0"
    del manifest["sha256"]
    (stage.path / "manifest.json").write_text(json.dumps(manifest | {"sha256": digest(manifest)}))
    assert run(make(tmp_path), calls).hit and "torch 1.0 -> " in capsys.readouterr().out
    with pytest.raises(UserError, match="store.strict=true"):
        run(make(tmp_path, strict=True), calls)


def flip(file):
    """Another byte, the same size and time: what a disk does."""
    status, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def fold(file):
    file.unlink()
    file.mkdir()


DAMAGE = {
    "flip": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-2]),
    "empty": lambda file: file.write_bytes(b""),
    "delete": lambda file: file.unlink(),
    "list": lambda file: file.write_text("[]"),
    "binary": lambda file: file.write_bytes(b"\xff\xfe"),
    "nested": lambda file: file.write_text("[" * 100_000),
    "folder": fold,
    "stage": lambda file: shutil.rmtree(file.parent) or file.parent.write_text("a file"),
}


@pytest.mark.parametrize("name", ["out.txt", "manifest.json"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_stage_is_reported_set_aside_and_computed_again(tmp_path, capsys, how, name):
    calls = []
    path = run(make(tmp_path), calls, "right").path
    DAMAGE[how](path / name)
    for hit in (False, True):  # healed for good
        again = run(make(tmp_path), calls, "right")
        assert again.hit == hit and (again.path / "out.txt").read_text() == "right" and again.facts == {"length": 5}
    assert calls == ["right"] * 2 and f"{path} is damaged (" in capsys.readouterr().out
    assert [len(list(path.parent.glob(pattern))) for pattern in ("*", "*.damaged.*")] == [2, 1]


def test_a_large_file_is_read_again_if_its_time_has_changed_or_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "READ_ALWAYS", 0)
    calls = []
    file = run(make(tmp_path), calls, "large").path / "out.txt"
    flip(file)
    assert run(make(tmp_path), calls, "large").hit, "size and time are as they were"
    assert not run(make(tmp_path, verify=True), calls, "large").hit and calls == ["large"] * 2
    flip(file)
    os.utime(file, ns=(0, 0))
    assert not run(make(tmp_path), calls, "large").hit
    os.utime(file, ns=(1, 1))  # copied: another time, the same content
    assert run(make(tmp_path), calls, "large").hit


def test_a_finished_stage_was_on_the_disk_before_it_was_renamed_into_place(tmp_path, monkeypatch):
    """What is synced before the rename, and after it."""
    done, fsync, rename = [], os.fsync, os.rename
    monkeypatch.setattr("os.fsync", lambda file: done.append(Path(os.readlink(f"/proc/self/fd/{file}")).name) or fsync(file))
    monkeypatch.setattr("os.rename", lambda one, other: done.append("RENAME") or rename(one, other))
    stage = run(make(tmp_path), [])
    before, after = done[: done.index("RENAME")], done[done.index("RENAME") + 1 :]
    assert {"out.txt", "manifest.json"} <= set(before) and before[-1].startswith(f"{stage.path.name}.output.") and "kind" in after


def never():
    return False


def test_a_lease_of_a_dead_process_is_taken_over_at_once(tmp_path):
    told = "import json; from drift.store.lease import holder_of_this_process; print(json.dumps(holder_of_this_process()))"
    dead = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout
    (tmp_path / "k.lease").write_text(dead)
    started = time.monotonic()
    with lease(tmp_path / "k", 60.0, never):
        assert time.monotonic() - started < 20  # far below the 60 s of the lease
        assert json.loads((tmp_path / "k.lease").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "k.lease").exists()


ELSEWHERE = {
    "another PID namespace": lambda me: [me["where"][0], "pid:[1]"],
    "another boot": lambda me: ["another", me["where"][1]],
    "a system that does not say": lambda me: None,
}


@pytest.mark.parametrize("place", ELSEWHERE)
@pytest.mark.parametrize("clock", [-7200, 7200])
def test_a_process_elsewhere_is_never_thought_dead_by_its_number_and_its_lease_ages_by_our_own_clock(tmp_path, place, clock):
    """The number is one that no process has here, and the file's time is that of a clock two hours off."""
    me = holder_of_this_process()
    (tmp_path / "k.lease").write_text(json.dumps(me | {"pid": 2**22 + 1, "where": ELSEWHERE[place](me)}))
    os.utime(tmp_path / "k.lease", (time.time() + clock, time.time() + clock))
    started = time.monotonic()
    with lease(tmp_path / "k", 0.4, never) as token:
        assert token and 0.4 <= time.monotonic() - started < 20


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"host": "h"', None])
def test_an_unreadable_lease_is_ignored_with_a_message(tmp_path, capsys, content):
    """After a power cut they are empty. None: a link that somebody planted, which is not followed."""
    (tmp_path / "precious").write_text("mine")
    if content is None:
        (tmp_path / "k.lease").symlink_to(tmp_path / "precious")
    else:
        (tmp_path / "k.lease").write_bytes(content)
    with lease(tmp_path / "k", 0.2, never) as token:
        assert token
    assert "can't be read: ignored" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["precious"] and (tmp_path / "precious").read_text() == "mine"


def test_a_store_needs_no_hard_links(tmp_path, monkeypatch):
    def refused(*arguments, **settings):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    assert not run(make(tmp_path), []).hit


def test_a_process_that_loses_its_lease_uses_the_result_of_the_other(tmp_path):
    """A process that stood still for too long: another has taken over the lease and what its progress was, and finished."""
    store, seen = make(tmp_path), {}

    def fast(progress, output):
        seen["taken over"] = (progress / "step").read_text()
        (output / "out.txt").write_text("of the fast one")
        return {}

    def slow(progress, output):
        (progress / "step").write_text("7")
        (output / "out.txt").write_text("of the slow one")
        next(tmp_path.glob("kind/*.lease")).unlink()
        store.run("kind", fast, version=1, settings={}, inputs={})
        seen["left"] = progress.exists() or output.exists()
        (output / "more.txt").write_text("x")
        raise AssertionError("written where it counts")

    stage = store.run("kind", slow, version=1, settings={}, inputs={})
    assert seen == {"taken over": "7", "left": False} and (stage.path / "out.txt").read_text() == "of the fast one"
    assert [path.name for path in tmp_path.glob("kind/*")] == [stage.path.name]


def test_what_a_process_left_that_was_killed_at_the_very_end_is_removed_by_the_next_one(tmp_path):
    final = run(make(tmp_path), []).path
    for left in ("lease", "lease.1", "progress.1", "output.1", "output.1.gone.2"):
        final.with_name(f"{final.name}.{left}").mkdir()
    kept = [final.name, f"{final.name}.damaged.1", "another.progress.1"]
    for name in kept[1:]:
        final.with_name(name).mkdir()
    told = f"from drift.store.stage import tidy; from pathlib import Path; tidy(Path({str(final.parent)!r}))"
    subprocess.run([sys.executable, "-c", told], check=True)
    assert sorted(path.name for path in final.parent.iterdir()) == sorted(kept)


def test_guessable_names_are_never_written_through(tmp_path):
    (tmp_path / "precious").write_text("mine")
    for name in (f".f.json.{os.getpid()}", ".f.json.part", "f.json.part"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    write_text(tmp_path / "f.json", "ours")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "f.json").read_text() == "ours" and not (tmp_path / "f.json").is_symlink()
    with pytest.raises(FileExistsError):
        files.create(tmp_path / ".f.json.part", b"x", sync=False)


@pytest.mark.slow
def test_a_lease_that_is_renewed_is_waited_for_and_the_work_done_once(tmp_path):
    store, calls = make(tmp_path, lease_seconds=1.0), []

    def slow(progress, output):
        calls.append("slow")
        time.sleep(2)  # longer than the lease: only its renewal keeps it
        return {}

    threads = [
        threading.Thread(target=store.run, args=("kind", slow), kwargs={"version": 1, "settings": {}, "inputs": {}})
        for _ in range(2)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert calls == ["slow"] and sorted(stage.hit for stage in store.log) == [False, True]
