"""Runs run.py in processes that kill themselves at a chosen moment: `python killer.py < rounds.json`.

stdin: a list of rounds. A round is a list of jobs that run at once; a job is `{"folder": cwd, "tmpdir": null | dir,
"overrides": [...], "kill": null | {"stage": kind, "at": moment, "nth": n}}`. stdout: how every job ended, what it
printed, and which files its store then had. Every job is a fork of a process that has imported what is slow to import: the
program itself is as it is, the wrappers below only count, print and choose the moment.

Only a process without threads is safe to fork, and which import starts some depends on the build of torch. So every slow module is
imported in a fork of its own: the fork that still has one thread goes on, and jobs begin in the last of them.

Moments, each inside the innermost open stage: `predict_step` and `training_step` (entered), `manifest` (outputs are
written, the manifest is not), `rename` (everything is written, but not in place), `copy` (half of a file is copied).
"""

import functools
import importlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a device can't be used by forks
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
SLOW = ["run", "torch", "transformers", "peft", "scipy.stats", "matplotlib.pyplot", "lightning", "drift.job"]
THREADS = 99  # the exit code of a fork that can't be forked again
SECONDS = 60  # a job that hangs (on a lease, say) is ended, and its return code shows it
open_stages: list[Path] = []  # final directories of the stages being computed, innermost last


def main() -> None:
    rounds = json.load(sys.stdin)
    import_slow_modules()
    results = []
    for jobs in rounds:
        started = [(job, start(job)) for job in jobs]
        ended = [(job, os.waitpid(pid, 0)[1]) for job, pid in started]
        results.append([outcome(Path(job["folder"]), status) for job, status in ended])
    json.dump(results, sys.stdout)


def import_slow_modules() -> None:
    """Returns in a process that can be forked."""
    for module in SLOW:
        if pid := os.fork():
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code != THREADS:  # a fork of it did the work
                sys.exit(code)
            break
        importlib.import_module(module)
        if len(list(Path("/proc/self/task").glob("*"))) > 1:
            os._exit(THREADS)


def start(job: dict[str, Any]) -> int:
    """Forks; the child runs the job and ends. Returns its pid."""
    Path(job["folder"]).mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.chdir(job["folder"])
        log = os.open("printed.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.alarm(SECONDS)
        tempfile.tempdir = job["tmpdir"]
        from drift import run

        watch(job["kill"])
        run.main(job["overrides"])
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def outcome(folder: Path, status: int) -> dict[str, Any]:
    files = [path.relative_to(folder / "store") for path in folder.glob("store/**/*") if path.is_file()]
    return {
        "returncode": os.waitstatus_to_exitcode(status),
        "printed": (folder / "printed.txt").read_text(encoding="utf-8"),
        "files": sorted(map(str, files)),
    }


def watch(kill: dict[str, Any] | None) -> None:
    """Wraps what the moments are about, and prints `[begun|computed] kind key` and `[trained] step`."""
    from drift.score.module import ReferenceModule
    from drift.store import Store, manifest
    from drift.train.modules import PolicyModule

    passed = 0

    def moment(name: str, last_act: Callable[[], Any] = lambda: None) -> None:
        nonlocal passed
        if kill and open_stages and (open_stages[-1].parent.name, name) == (kill["stage"], kill["at"]):
            passed += 1
            if passed == kill["nth"]:
                last_act()
                os.kill(os.getpid(), signal.SIGKILL)

    def before(owner: Any, function: str, name: str, applies: Callable[..., bool]) -> None:
        real = getattr(owner, function)

        @functools.wraps(real)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if applies(*args):
                moment(name)
            return real(*args, **kwargs)

        setattr(owner, function, wrapper)

    before(ReferenceModule, "predict_step", "predict_step", lambda *args: True)
    before(PolicyModule, "training_step", "training_step", lambda *args: True)
    before(manifest, "write_json", "manifest", lambda path, value: path.name == manifest.MANIFEST)
    before(os, "rename", "rename", lambda source, target: bool(open_stages) and Path(target) == open_stages[-1])

    compute, training_step, sendfile = Store._compute, PolicyModule.training_step, os.sendfile

    def copied(target: int, source: int, offset: int, count: int) -> int:  # what shutil copies files with
        if offset == 0:
            moment("copy", lambda: sendfile(target, source, 0, os.fstat(source).st_size // 2))
        return sendfile(target, source, offset, count)

    def computed(self: Any, name: str, final: Path, *rest: Any) -> Any:
        print("[begun]", name, final.name, flush=True)
        open_stages.append(final)
        try:
            stage = compute(self, name, final, *rest)
        finally:
            open_stages.pop()
        print("[computed]", name, final.name, flush=True)
        return stage

    def trained(self: Any, *args: Any) -> None:
        training_step(self, *args)
        print("[trained]", len(self.history), flush=True)

    os.sendfile = copied
    Store._compute = computed  # type: ignore[method-assign]
    PolicyModule.training_step = trained  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
