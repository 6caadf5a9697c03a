"""Stages: keyed by content, finished by a rename, never half there; leases are taken over; other environments are named."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from drift.errors import UserError
from drift.store import Store, lease


def make(folder, **changes):
    return Store(**{"dir": str(folder), "strict": False, "lease_seconds": 30.0} | changes)


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
    (stage.path / "manifest.json").write_text(json.dumps(manifest))
    assert run(make(tmp_path), calls).hit and "torch 1.0 -> " in capsys.readouterr().out
    with pytest.raises(UserError, match="store.strict=true"):
        run(make(tmp_path, strict=True), calls)


def test_a_lease_of_a_dead_process_is_taken_over_at_once(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    import socket

    (tmp_path / "k.lease").write_text(
        json.dumps({"host": socket.gethostname(), "pid": int(dead.stdout), "born": 1.0, "thread": 1, "beat": 0})
    )
    started = time.monotonic()
    with lease(tmp_path / "k", 60.0):
        assert time.monotonic() - started < 20  # far below the 60 s of the lease
        assert json.loads((tmp_path / "k.lease").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "k.lease").exists()


def test_a_lease_of_another_host_that_stopped_moving_is_taken_over(tmp_path):
    (tmp_path / "k.lease").write_text(json.dumps({"host": "elsewhere", "pid": 1, "born": 1.0, "thread": 1, "beat": 7}))
    started = time.monotonic()
    with lease(tmp_path / "k", 1.0):
        assert 1.0 <= time.monotonic() - started < 30


def test_a_lease_that_is_renewed_is_waited_for_and_the_work_done_once(tmp_path):
    store, calls = make(tmp_path, lease_seconds=3.0), []

    def slow(progress, output):
        calls.append("slow")
        time.sleep(5)  # longer than the lease: only its renewal keeps it
        return {}

    threads = [
        threading.Thread(target=store.run, args=("kind", slow), kwargs={"version": 1, "settings": {}, "inputs": {}})
        for _ in range(2)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert calls == ["slow"] and sorted(stage.hit for stage in store.log) == [False, True]
