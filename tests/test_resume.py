"""A killed run, started again, ends as if nothing had happened; two runs on one store share the work.

On one store a command is killed by SIGKILL eight times in a row, at least once inside every kind of stage, and then
left alone. On another it is never disturbed, and a third is given to two processes at once.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drift.store import MANIFEST, lease

pytestmark = pytest.mark.slow

KINDS = {"feedback", "replies", "examples", "reference", "train", "evaluate", "logprobs"}
ITERATIONS = 2
OVERRIDES = [
    "model=tiny", "method=drift", "data=deployment", "data.num_prompts=12",
    f"iterations={ITERATIONS}", "examples_per_iteration=8",
    "train.examples_per_step=2", "train.tokens_per_batch=500", "train.checkpoint_every_steps=1", "train.max_tokens=512",
    "evaluation.deployment.num_prompts=6", "sampler.group_size=8", "sampler.max_new_tokens=12", "filters.truncated=keep",
    "store.dir=store", "store.lease_seconds=3600",  # nobody can wait for a dead process's lease to run out
]  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """SIGKILL at the n-th such moment (see killer.py) inside a stage of this kind. `ends_in`: the stages being computed
    then, outermost first."""

    stage: str
    at: str
    nth: int
    ends_in: tuple[str, ...]


KILLS = [
    Kill("replies", "manifest", 2, ("feedback", "replies")),
    Kill("feedback", "manifest", 1, ("feedback",)),
    Kill("logprobs", "predict_step", 2, ("evaluate", "logprobs")),
    Kill("examples", "rename", 1, ("examples",)),
    Kill("reference", "predict_step", 3, ("reference",)),
    Kill("train", "training_step", 3, ("train",)),  # iteration 1, two of four steps done
    Kill("train", "training_step", 6, ("train",)),  # the other two; then iteration 2, three steps done
    Kill("train", "manifest", 1, ("train",)),  # iteration 2, all steps done and the policy written
]
FIRST_TRAIN_KILL = 5
TRAINED = [[]] * FIRST_TRAIN_KILL + [[1, 2], [3, 4, 1, 2, 3], [4], []]  # the steps that each attempt makes
TEAR = Kill("train", "copy", 2, ("train",))
OTHER_FILE_SYSTEM = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass(frozen=True)
class Outcome:
    """How a process ended (`returncode` as subprocess has it), what it printed, and the files its store then had."""

    folder: Path
    returncode: int
    printed: str
    files: list[str]

    def events(self, event: str) -> list[list[str]]:
        return [line.split()[1:] for line in self.printed.splitlines() if line.startswith(f"[{event}]")]

    @property
    def begun(self) -> list[tuple[str, str]]:
        """(kind, key) of every stage whose work was begun."""
        return [(kind, key) for kind, key in self.events("begun")]

    @property
    def computed(self) -> list[tuple[str, str]]:
        return [(kind, key) for kind, key in self.events("computed")]

    @property
    def unfinished(self) -> list[tuple[str, str]]:
        """Outermost first."""
        return [stage for stage in self.begun if stage not in self.computed]

    @property
    def steps(self) -> list[int]:
        """The training steps made."""
        return [int(step) for (step,) in self.events("trained")]

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "run" / "run.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Outcomes:
    undisturbed: Outcome
    attempts: list[Outcome]  # one per kill, and the last that was left alone
    together: list[Outcome]  # two at once
    torn: list[Outcome]  # killed while a checkpoint was copied from another file system; then resumed

    @property
    def resumed(self) -> Outcome:
        return self.attempts[-1]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    root = tmp_path_factory.mktemp("resume")

    def job(folder: str, kill: Kill | None = None, tmpdir: str | None = None) -> dict[str, Any]:
        overrides = [*OVERRIDES, f"model.cache_dir={root / 'cache'}", "hydra.run.dir=run"]
        return {"folder": str(root / folder), "tmpdir": tmpdir, "overrides": overrides, "kill": kill and vars(kill)}

    attempts = [[job("killed", kill)] for kill in [*KILLS, None]]
    two = [job("one"), job("two")]
    (root / "shared").mkdir()
    for each in two:  # every process has its own folder, and both have one store
        Path(each["folder"]).mkdir()
        (Path(each["folder"]) / "store").symlink_to(root / "shared")
    with tempfile.TemporaryDirectory(dir=OTHER_FILE_SYSTEM) as scratch:
        torn = [[job("torn", kill, scratch)] for kill in (TEAR, None)]
        ((undisturbed,),) = perform([[job("undisturbed")]], hash_seed=1)
        assert undisturbed.returncode == 0, undisturbed.printed
        found = perform([*attempts, two, *torn], hash_seed=2)
    singles = [jobs[0] for jobs in found]
    return Outcomes(undisturbed, attempts=singles[:-3], together=found[-3], torn=singles[-2:])


def perform(rounds: list[list[dict[str, Any]]], hash_seed: int) -> list[list[Outcome]]:
    """Has killer.py run the jobs. `hash_seed`: Python orders sets by it, anew in every process: it must not matter."""
    command = [sys.executable, str(Path(__file__).with_name("killer.py"))]
    ended = subprocess.run(
        command,
        input=json.dumps(rounds),
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [
        [Outcome(folder=Path(job["folder"]), **result) for job, result in zip(jobs, results, strict=True)]
        for jobs, results in zip(rounds, json.loads(ended.stdout.splitlines()[-1]), strict=True)
    ]


def artefacts(run: Path) -> dict[str, bytes]:
    """What a run leaves behind, by name, every file of the list there."""
    names = ["records.jsonl", "quarantine.jsonl", "iteration_0/deployment/scores.json", "iteration_0/deployment/replies.jsonl"]
    for iteration in range(1, ITERATIONS + 1):
        made = ("examples.jsonl", "policy/adapter_model.safetensors", "steps.jsonl")
        made += ("deployment/scores.json", "deployment/replies.jsonl")
        names += [f"iteration_{iteration}/{name}" for name in made]
    return {name: (run / name).read_bytes() for name in names}


def report(run: Path) -> str:
    """The report without its date, its cost, and its table of times and of stages computed and found."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d|<p>Cost: .*?</p>", "", (run / "report.html").read_text(encoding="utf-8"))
    masked, count = re.subn(r"<table>\s*<tr><th>stage</th>.*?</table>", "<table>", text, flags=re.DOTALL)
    assert count == 1
    return masked


def stored(store: Path) -> dict[str, Any]:
    """Everything in a store by its path; of manifests what depends on neither the time nor the machine."""
    files = [path for path in store.rglob("*") if path.is_file() and path.suffix != ".use"]
    content: dict[str, Any] = {str(path.relative_to(store)): path.read_bytes() for path in files}
    for name in content:
        if name.endswith(MANIFEST):
            manifest = json.loads(content[name])
            of_this_time = ("seconds", "peak_gib", "environment", "modified", "sha256")
            content[name] = {part: manifest[part] for part in manifest if part not in of_this_time}
    return content


def test_processes_were_killed_inside_every_kind_of_stage(outcomes: Outcomes) -> None:
    assert {kind for kill in KILLS for kind in kill.ends_in} == KINDS
    for kill, attempt in zip(KILLS, outcomes.attempts, strict=False):
        assert attempt.returncode == -signal.SIGKILL, f"{kill}: {attempt.printed}"
        assert tuple(kind for kind, _ in attempt.unfinished) == kill.ends_in
        leases = {file for file in attempt.files if file.endswith(".lease")}
        assert leases == {f"{kind}/{key}.lease" for kind, key in attempt.unfinished}  # nothing was cleaned up
    assert outcomes.resumed.returncode == 0, outcomes.resumed.printed


def test_killed_and_resumed_run_gives_the_artefacts_of_an_undisturbed_one(outcomes: Outcomes) -> None:
    mine, theirs = (artefacts(one.folder / "run") for one in (outcomes.resumed, outcomes.undisturbed))
    for name, content in theirs.items():
        assert content or name == "quarantine.jsonl", f"{name} is empty: nothing is compared"
        assert mine[name] == content, name
    weights = [theirs[f"iteration_{i}/policy/adapter_model.safetensors"] for i in range(1, ITERATIONS + 1)]
    assert len(set(weights)) == ITERATIONS  # every iteration trained


def test_killed_and_resumed_store_is_that_of_an_undisturbed_run_with_nothing_left_over(outcomes: Outcomes) -> None:
    mine, theirs = (stored(one.folder / "store") for one in (outcomes.resumed, outcomes.undisturbed))
    assert sorted(mine) == sorted(theirs)
    assert [name for name in theirs if mine[name] != theirs[name]] == []


def test_report_of_a_resumed_run_is_that_of_an_undisturbed_one(outcomes: Outcomes) -> None:
    assert outcomes.resumed.state["status"] == "finished"
    assert report(outcomes.resumed.folder / "run") == report(outcomes.undisturbed.folder / "run")


def test_reusing_a_run_folder_does_not_repeat_rows_in_its_csv(outcomes: Outcomes) -> None:
    for name in ("steps.csv", "scores.csv"):
        mine, theirs = ((one.folder / "run" / name).read_text() for one in (outcomes.resumed, outcomes.undisturbed))
        assert mine == theirs, name


def test_training_resumes_from_its_checkpoint(outcomes: Outcomes) -> None:
    for attempt in outcomes.attempts[FIRST_TRAIN_KILL:-1]:
        _, key = attempt.unfinished[-1]
        assert [file for file in attempt.files if file.startswith(f"train/{key}.progress.") and file.endswith("/last.ckpt")]
    assert [attempt.steps for attempt in outcomes.attempts] == TRAINED
    assert outcomes.undisturbed.steps == [1, 2, 3, 4] * ITERATIONS


def test_stages_finished_before_a_kill_are_never_computed_again(outcomes: Outcomes) -> None:
    computed = Counter(stage for attempt in outcomes.attempts for stage in attempt.computed)
    assert set(computed) == set(outcomes.undisturbed.computed)
    assert set(computed.values()) == {1}


def test_half_written_outputs_are_never_taken_as_finished(outcomes: Outcomes) -> None:
    for kill, attempt, following in zip(KILLS, outcomes.attempts, outcomes.attempts[1:], strict=False):
        kind, key = attempt.unfinished[-1]
        if kill.at in ("manifest", "rename"):
            left = {file.split("/", 2)[2] for file in attempt.files if file.startswith(f"{kind}/{key}.output.")}
            if kind != "replies":  # their output is the manifest
                assert left - {MANIFEST}, "no output was written: the kill came too early to show anything"
            assert (MANIFEST in left) == (kill.at == "rename")
        assert not any(file.startswith(f"{kind}/{key}/") for file in attempt.files)
        assert (kind, key) in following.begun  # not found


def test_kill_while_a_checkpoint_is_copied_does_not_stop_the_next_run(outcomes: Outcomes) -> None:
    """Lightning writes a checkpoint to $TMPDIR and moves it, which is a copy if that is another file system."""
    killed, resumed = outcomes.torn
    if OTHER_FILE_SYSTEM is None or Path(OTHER_FILE_SYSTEM).stat().st_dev == killed.folder.stat().st_dev:
        pytest.skip("needs a second file system")
    if killed.returncode == 0:
        return  # nothing was copied, so nothing could be torn
    assert (killed.returncode, killed.unfinished[-1][0]) == (-signal.SIGKILL, "train"), killed.printed
    assert resumed.returncode == 0, resumed.printed
    assert artefacts(resumed.folder / "run") == artefacts(outcomes.undisturbed.folder / "run")


def test_two_processes_on_one_empty_store_compute_every_stage_once(outcomes: Outcomes) -> None:
    for one in outcomes.together:
        assert one.returncode == 0, one.printed
        assert artefacts(one.folder / "run") == artefacts(outcomes.undisturbed.folder / "run")
    computed = [stage for one in outcomes.together for stage in one.computed]
    assert sorted(computed) == sorted(outcomes.undisturbed.computed)
    by_kind = Counter(stage["name"] for one in outcomes.together for stage in one.state["stages"] if not stage["hit"])
    assert by_kind == Counter(kind for kind, _ in computed)
    assert any(stage["hit"] for one in outcomes.together for stage in one.state["stages"])


HOLD = """
import sys
from pathlib import Path
from drift.store import lease
with lease(Path(sys.argv[1]), 3600, lambda: False):
    print("held", flush=True)
    sys.stdin.read()
"""


def never() -> bool:
    return False


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds the lease of `tmp_path / "stage"` until its stdin is closed."""
    root = Path(__file__).resolve().parent.parent
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "stage")], cwd=root, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_lease_of_a_dead_process_is_taken_over_at_once(tmp_path: Path, holder: subprocess.Popen) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    assert (tmp_path / "stage.lease").is_file()
    started = time.monotonic()
    with lease(tmp_path / "stage", 20, never):
        assert time.monotonic() - started < 10  # half of the seconds that it would otherwise be waited for


def test_lease_of_a_live_process_is_waited_for(tmp_path: Path, holder: subprocess.Popen) -> None:
    release = threading.Timer(1.0, holder.stdin.close)
    started = time.monotonic()
    release.start()
    with lease(tmp_path / "stage", 3600, never):
        assert time.monotonic() - started > 0.9


def test_a_lease_without_a_sign_of_life_is_taken_over_after_its_time(tmp_path: Path) -> None:
    owner = {"token": "t", "host": "another-host", "pid": os.getpid(), "born": 1, "where": ["another boot", "pid:[1]"]}
    (tmp_path / "stage.lease").write_text(json.dumps(owner))
    started = time.monotonic()
    with lease(tmp_path / "stage", 0.5, never):
        assert 0.4 < time.monotonic() - started < 20
