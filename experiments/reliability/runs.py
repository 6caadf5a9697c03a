"""Starts many runs of the unchanged program on the tiny model: each is a fork of a process that has done the slow imports.

Fork only while torch has not computed anything in this process, which imports, forks and compares files.
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from drift import run as program  # noqa: E402

TINY = [
    "model=tiny", "data.num_prompts=24", "iterations=1", "examples_per_iteration=8", "train.examples_per_step=2",
    "train.tokens_per_batch=500", "train.checkpoint_every_steps=1", "evaluation.deployment.num_prompts=6",
    "num_perplexity_prompts=2", "sampler.group_size=8", "sampler.max_new_tokens=12",
]  # fmt: skip
KINDS = {
    "drift": ["method=drift"],
    "full": ["method=drift", "train=full", "train.learning_rate=1e-4", "iterations=2", "previous_share=0.5"],
    "refreshed": ["method=drift", "iterations=2", "refresh_log=true"],
    "log": ["method=spin", "data=jsonl", "evaluation.heldout.num_sampled_prompts=4", "evaluation.heldout.share=0.3"],
    "sweep": ["-m", "method=drift,random_logged", "seed=0,1"],
}


def load() -> None:
    """Imports what a run would import first."""
    import lightning  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import peft  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import drift.job  # noqa: F401

    tasks = len(list(Path("/proc/self/task").iterdir()))
    assert tasks == 1, f"{tasks} threads: this build of torch can't be forked from"


def command(kind: str, folder: Path, cache: Path, store: Path | None = None, changes: Sequence[str] = ()) -> list[str]:
    """Arguments of a run in `folder/run` (its store beside it, or another). `changes`: settings, instead of these."""
    place = f"hydra.sweep.dir={folder}/run" if "-m" in KINDS[kind] else f"hydra.run.dir={folder}/run"
    data = []
    if kind == "log":
        log = folder / "log.jsonl"
        if not log.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            log.write_text("".join(json.dumps(row) + "\n" for row in rows()))
        data = [f"data.path={log}"]
    settings = [item for item in TINY if kind != "log" or not item.startswith(("data.", "evaluation."))]
    if not any(change.startswith("model=") for change in changes):
        settings.append(f"model.cache_dir={cache}")
    named = {change.partition("=")[0] for change in changes}
    kept = [item for item in [*settings, *KINDS[kind]] if item.partition("=")[0] not in named]
    kept.sort(key=lambda item: item != "-m")  # which Hydra wants first
    return [*kept, *changes, *data, place, f"store.dir={store or folder / 'store'}"]


def rows() -> list[dict]:
    """A log in DRIFT's format."""
    bad = [{"prompt": [{"role": "user", "content": f"Question {i}?"}], "rejected": [{"role": "assistant", "content": f"Bad {i}."}],
            "user_preference": {"content": "No, that is wrong."}} for i in range(12)]  # fmt: skip
    good = [{"prompt": [{"role": "user", "content": f"Wish {i}?"}], "chosen": [{"role": "assistant", "content": f"Good {i}."}]}
            for i in range(12)]  # fmt: skip
    return bad + good


def start(arguments: list[str], printed: Path, change: Callable[[], None] = lambda: None) -> int:
    """Forks; the child runs the program with what it prints in a file, after `change` to its surroundings. Returns its pid."""
    printed.parent.mkdir(parents=True, exist_ok=True)
    if pid := os.fork():
        return pid
    code = 1
    try:
        log = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        change()
        program.main(arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float = 300) -> int | None:
    """The exit code (negative: a signal), or None if it still runs after that time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def finish(pid: int, seconds: float = 300) -> int:
    """The exit code; a run that hangs is killed, which its code shows."""
    code = wait(pid, seconds)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code


def artefacts(run: Path) -> dict[str, str]:
    """What equal runs have in common: every byte of pairs, policies, metrics and scores."""
    found = [file for pattern in ("**/*.jsonl", "**/*.csv", "**/scores.json") for file in run.glob(pattern)]
    found += [file for policy in run.glob("**/iteration_*/policy") for file in policy.glob("*.safetensors")]
    ours = {file for file in found if file.is_file() and file.name != "results.csv"}
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(ours)}


def undisturbed(kind: str, folder: Path, cache: Path, changes: Sequence[str] = ()) -> tuple[dict[str, str], float]:
    """The artefacts of a run that nobody disturbs, and its seconds."""
    begun = time.monotonic()
    code = finish(start(command(kind, folder, cache, changes=changes), folder / "printed.txt"), 3600)
    assert code == 0, (folder / "printed.txt").read_text()
    found = artefacts(folder / "run")
    assert len(found) >= 6, found
    return found, time.monotonic() - begun


def verdict(run: Path, code: int, printed: Path, expected: dict[str, str]) -> str:
    """ "equal", or what is wrong."""
    said, found = printed.read_text(errors="replace"), artefacts(run)
    if code != 0:
        return f"exit code {code}: {said[-300:]}"
    if "Traceback" in said:
        return f"a traceback: {said[-300:]}"
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return f"other artefacts: {different}" if different else "equal"
