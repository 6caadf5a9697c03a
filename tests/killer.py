"""Runs run.py in processes that kill themselves at a chosen moment: `python killer.py < rounds.json`.

stdin: a list of rounds. A round is a list of jobs that run at once; a job is `{"folder": cwd, "tmpdir": null | dir,
"overrides": [...], "kill": null | {"stage": kind, "at": moment, "nth": n}}`. stdout: how every job ended, what it
printed, and which files its store then had. Everything is imported once, and every job is a fork of that: the program
itself is as it is, the wrappers below only count, print and choose the moment.

Moments, each inside the innermost open stage: `predict_step` and `training_step` (entered), `manifest` (outputs are
written, the manifest is not), `rename` (everything is written, but not in place), `copy` (half of a file is copied).
"""

import functools
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process without threads is safe to fork
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import run  # noqa: E402  (first of all: it sets how OpenMP waits)

# isort: split
import lightning  # noqa: E402, F401
import matplotlib.pyplot  # noqa: E402, F401
import peft  # noqa: E402, F401
import scipy.stats  # noqa: E402, F401
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: E402, F401

import drift.job  # noqa: E402, F401
import drift.sampler.decode  # noqa: E402, F401
from drift import store  # noqa: E402
from drift.train.modules import PolicyModule, ReferenceModule  # noqa: E402

SECONDS = 60  # a job that hangs (on a lease, say) is ended, and its return code shows it
open_stages: list[Path] = []  # final directories of the stages being computed, innermost last


def main() -> None:
    rounds = json.load(sys.stdin)
    results = []
    for jobs in rounds:
        assert len(list(Path("/proc/self/task").glob("*"))) <= 1, "there are threads: a fork would not be safe"
        started = [(job, start(job)) for job in jobs]
        ended = [(job, os.waitpid(pid, 0)[1]) for job, pid in started]
        results.append([outcome(Path(job["folder"]), status) for job, status in ended])
    json.dump(results, sys.stdout)


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
        watch(job["kill"])
        sys.argv = ["run.py", *job["overrides"]]
        run.main()
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
    before(store, "write_json", "manifest", lambda path, value: path.name == store.MANIFEST)
    before(os, "rename", "rename", lambda source, target: bool(open_stages) and Path(target) == open_stages[-1])

    compute, training_step, sendfile = store.Store._compute, PolicyModule.training_step, os.sendfile

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
    store.Store._compute = computed  # type: ignore[method-assign]
    PolicyModule.training_step = trained  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
