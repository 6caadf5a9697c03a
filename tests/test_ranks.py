"""Runs on several devices, as processes on the CPU: the stages of one, and a failing rank ends them all with its own words."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, command, compose, foreign, perform
from omegaconf import OmegaConf
from test_reward_model import write

from drift import launch, stop
from drift.engine import failure, ranks
from drift.engine.failure import Fate
from drift.engine.groups import rounds
from drift.errors import UserError
from drift.rank import Place, first_node, place_of
from drift.records import write_json
from drift.sampler.process import start
from drift.store.lease import holder_of_this_process

SHORT = ["model=tiny", "iterations=0", "data.num_prompts=16", "evaluation.deployment.num_prompts=6", "num_perplexity_prompts=2"]
INNER = {
    "_target_": "drift.sampler.transformers.Transformers", "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 6,
    "max_prompt_tokens": 512, "group_size": 4, "tokens_per_batch": 2000, "precision": "float32",
}  # fmt: skip
AS_TROUBLED = [f"sampler.{name}={value}" for name, value in INNER.items()]
TROUBLED = {"_target_": "rank_forks.Troubled", "inner": INNER}


def stages(store, names, **inputs):
    """Name and key -> facts, of the stages with these inputs."""
    found = {}
    for file in Path(store).glob("*/*/manifest.json"):
        manifest = json.loads(file.read_text())
        if manifest["stage"] in names and inputs.items() <= manifest["inputs"].items():
            found[f"{manifest['stage']}/{file.parent.name}"] = manifest["facts"]
    return found


@pytest.mark.slow
def test_two_devices_make_the_stages_of_one(tokenizer, cache, tmp_path):
    """Replies, examples, rewards and log-probs about the start model; the last group of replies has no companion."""
    judge = write(tokenizer, tmp_path / "judge")
    given = [
        *SMALL, "iterations=1", f"model.cache_dir={cache}", "sampler.group_size=6", "train.precision=float32", "method=iterdpo",
        "judge=reward_model", f"method.judge.path={judge}", "method.judge.group_size=3", "sampler.precision=float32",
    ]  # fmt: skip
    one = perform(tmp_path / "one", *given, f"store.dir={tmp_path}/of_one")
    done = command(
        *given, "devices=2", f"store.dir={tmp_path}/of_two", f"hydra.run.dir={tmp_path}/two", OMP_NUM_THREADS="1", RANK="7"
    )  # a variable that a launcher may have left
    assert (done.returncode, done.stderr, foreign(done.stdout)) == (0, "", [])
    assert "Report: " in done.stdout
    title = json.loads((tmp_path / "two" / "run.json").read_text())["title"]
    assert title["devices"] == "2", "members of a sweep that differ in devices alone are no two seeds"
    (start,) = {json.loads(file.read_text())["inputs"]["policy"] for file in (tmp_path / "of_one").glob("feedback/*/manifest.json")}
    names = ("feedback", "replies", "examples", "evaluate", "logprobs")
    expected, found = (stages(tmp_path / store, names, policy=start) for store in ("of_one", "of_two"))
    assert {name.partition("/")[0] for name in expected} == set(names)
    assert {name: found.get(name) for name in expected} == expected
    extra = [name.partition("/")[0] for name in found if name not in expected]
    assert set(extra) <= {"replies"} and len(extra) <= 4  # what the judge's next three items need, and a group beside the last one
    rewards = [stages(tmp_path / store, ["judge"]) for store in ("of_one", "of_two")]
    assert rewards[0] and {name: rewards[1].get(name) for name in rewards[0]} == rewards[0]
    assert len(rewards[1]) <= len(rewards[0]) + 1
    assert {one.rank: one.code for one in failure.fates(tmp_path / "two")} == {0: 0, 1: 0} and len(one["stages"]) > 9


RUNS = {"refused": 1, "full": 1, "killed": 1, "gone": 0}  # trouble -> the rank that has it


@pytest.fixture(scope="module")
def ended(cache, tmp_path_factory):
    """(trouble -> how a run of two ranks ended, the folder of all); at last one with the store of `refused`, without trouble."""
    folder = tmp_path_factory.mktemp("ended")
    runs = []
    for name, on in [*RUNS.items(), ("resumed", 9)]:
        place, store = folder / name, folder / f"{'refused' if name == 'resumed' else name}.store"
        config = compose(*SHORT, f"model.cache_dir={cache}", f"store.dir={store}")
        config.sampler = TROUBLED | {"trouble": name, "on": on}
        place.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
        runs.append({"folder": str(place), "ranks": 2, "config": str(folder / f"{name}.yaml")})
    script = [sys.executable, str(ROOT / "tests" / "rank_forks.py")]
    done = subprocess.run(
        script, input=json.dumps(runs), capture_output=True, text=True, timeout=280, cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip([*RUNS, "resumed"], json.loads(done.stdout), strict=True)), folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("refused", "rank 1: The prompts are not what this sampler reads."),
        ("full", "rank 1: out of memory. Make the batches smaller (train.tokens_per_batch"),
        ("killed", "rank 1 (process PID on HOST) was killed (SIGKILL) and left no message. The usual cause is that"),
    ],
)
def test_a_failing_rank_ends_the_run_with_its_words(trouble, words, ended):
    outcomes, folder = ended
    outcome, state = outcomes[trouble], outcomes[trouble]["state"]
    (fate,) = (one for one in failure.fates(folder / trouble) if one.rank == 1)
    words = words.replace("PID", str(fate.process["pid"])).replace("HOST", fate.process["host"])
    assert outcome["codes"] == [1, -9 if trouble == "killed" else 1] and outcome["seconds"] < 30
    assert state["status"] == "failed" and state["error"].startswith(f"UserError: {words}")
    printed, of_rank_1 = outcome["printed"]
    assert words in printed and "Traceback" not in printed + of_rank_1
    assert of_rank_1 == "" if trouble == "killed" else of_rank_1.startswith(f"\n{words}")
    assert (folder / trouble / "report.html").is_file() and not list(folder.glob(f"{trouble}.store/*/*.lease"))


@pytest.mark.slow
def test_the_other_ranks_end_without_a_word_when_rank_0_is_killed_and_its_job_says_so(ended):
    outcomes, folder = ended
    assert outcomes["gone"]["codes"] == [-9, 1] and outcomes["gone"]["printed"][1] == "" and outcomes["gone"]["seconds"] < 30
    with pytest.raises(UserError, match=r"^rank 0 \(process \d+ on .*\) was killed \(SIGKILL\)"):
        launch.conclude(folder / "gone", 1)
    state = json.loads((folder / "gone" / "run.json").read_text())
    assert state["status"] == "failed" and "rank 0 (process" in state["error"]


@pytest.mark.slow
def test_the_same_command_resumes_and_ends_with_the_stages_of_one_process(ended, cache):
    outcomes, folder = ended
    resumed = outcomes["resumed"]
    assert (resumed["codes"], resumed["state"]["status"]) == ([0, 0], "finished")
    assert "found in the store: 2 replies" in resumed["printed"][0]
    perform(folder / "one", *SHORT, f"model.cache_dir={cache}", f"store.dir={folder}/one.store", *AS_TROUBLED)
    names = ("replies", "logprobs")  # the others know the class of the sampler
    expected, found = (list(stages(folder / f"{name}.store", names).values()) for name in ("one", "refused"))
    assert sorted(found, key=str) == sorted(expected, key=str) and len(expected) == 4 + 3 + 1  # replies to users, to the test


def test_the_traceback_of_an_unexpected_error_is_kept(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    try:
        {}["lengths"]
    except KeyError as error:
        ended = failure.end(tmp_path, 1, error)
    assert ended.words == f"rank 1: KeyError: 'lengths' (the traceback is in {tmp_path}/ranks.log)" and ended.code == 1
    assert "Traceback" in (tmp_path / "ranks.log").read_text()
    assert failure.end(tmp_path, 0, None).code == 0 and failure.end(tmp_path, 0, stop.Stopped(130)).code == 130


def fate(folder, rank, words=None, *, ended=1.0, lost=False, process=None):
    one = Fate(rank=rank, process=process or holder_of_this_process(), ended=ended, code=1, words=words, lost=lost)
    (folder / "ranks").mkdir(exist_ok=True)
    write_json(folder / "ranks" / f"{rank}.json", vars(one))


def test_the_first_rank_with_a_reason_of_its_own_is_the_one_that_failed(tmp_path):
    assert failure.first(tmp_path, patience=0) is None
    fate(tmp_path, 0, "rank 0: Connection closed by peer", ended=1.0, lost=True)
    fate(tmp_path, 1, "second", ended=3.0)
    fate(tmp_path, 2, "first", ended=2.0)
    fate(tmp_path, 3, ended=None)  # it runs
    assert failure.first(tmp_path, patience=0) == "first"


def test_a_crash_inside_a_library_is_named(tmp_path):
    dead = holder_of_this_process() | {"pid": 2**22 + 1}  # no process has this number
    fate(tmp_path, 0, "lost", lost=True)
    fate(tmp_path, 1, ended=None, process=dead)
    (tmp_path / "ranks" / "1.crash").write_text("Fatal Python error: Segmentation fault\n\nCurrent thread …\n")
    assert failure.first(tmp_path, patience=0).endswith(
        f") crashed: Segmentation fault. Where it was is written in {tmp_path}/ranks/1.crash."
    )


def test_what_a_connection_lacked_is_said_if_no_rank_has_another_reason(tmp_path):
    fate(tmp_path, 0, "Duplicate GPU detected: NCCL error", ended=2.0, lost=True)
    fate(tmp_path, 1, "rank 1: Duplicate GPU detected: NCCL error", ended=1.0, lost=True)
    with pytest.raises(UserError, match="^rank 1: Duplicate GPU"):
        launch.conclude(tmp_path, 1)
    assert not failure.was_lost(RuntimeError("NCCL error: unhandled cuda error, Cuda failure 2 'out of memory'"))


def test_ranks_that_cannot_meet_say_so(tmp_path, monkeypatch, capsys):
    """The port of rank 0 is taken."""
    with socket.create_server(("", 0)) as taken:
        place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
        for name, value in (place | {"MASTER_PORT": str(taken.getsockname()[1])}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=r"^The ranks can't meet at localhost:\d+\. Expected .* that is free .*in use"):
            ranks.join(0)


def test_a_rank_takes_the_gpu_of_its_number_or_the_only_one_that_it_sees():
    assert [ranks.gpu_of(local, 8) for local in range(8)] == [*range(8)] and ranks.gpu_of(3, 1) == 0
    with pytest.raises(UserError, match="^This machine has 2 GPUs for the ranks .* this is its rank 3. Start one for each GPU"):
        ranks.gpu_of(2, 2)


def test_the_errors_of_a_connection_that_is_gone_are_no_reason(tmp_path):
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:34182")
    assert failure.was_lost(gone) and failure.was_lost(ranks.Lost("x"))
    assert not failure.was_lost(RuntimeError("shapes differ")) and not failure.was_lost(UserError("gloo"))


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1, 0, {})),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, (3, 8, 1, {})),
        (
            {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "40007"}
            | {"SLURM_STEP_NODELIST": "localhost"},
            (3, 8, 1, {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "localhost", "MASTER_PORT": "20007"}),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}, (0, 1, 0, {"RANK": "0", "WORLD_SIZE": "1"})),
    ],
)
def test_a_rank_knows_its_place_from_torchrun_or_srun(environment, place):
    rank, world, local, meeting = place
    assert place_of(environment) == Place(rank=rank, world=world, local=local, meeting=meeting)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "3", "LOCAL_RANK": "1"}, "lacks WORLD_SIZE, MASTER_ADDR, MASTER_PORT, which torchrun sets"),
        ({"SLURM_PROCID": "3"}, "lacks SLURM_NTASKS, SLURM_LOCALID, which srun sets"),
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"},
            "only one of them would start. Start all of them: srun ",
        ),
        ({"SLURM_PROCID": "x", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, "SLURM_PROCID=x in the environment: expected a whole"),
    ],
)
def test_what_is_missing_in_the_environment_of_a_rank_is_said(environment, message):
    with pytest.raises(UserError, match=message):
        place_of(environment)


@pytest.mark.parametrize(
    ("nodes", "address", "expected"),
    [
        ("localhost,gpu7", "10.0.0.9", "localhost"),
        ("no-such-host[03-05,9],old1", "10.0.0.9", "10.0.0.9"),
        ("127.0.0.[1-2]", None, "127.0.0.1"),
        ("", None, None),
    ],
)
def test_the_ranks_of_a_cluster_job_meet_on_its_first_machine(nodes, address, expected):
    environment = {"SLURM_STEP_NODELIST": nodes} | ({"SLURM_LAUNCH_NODE_IPADDR": address} if address else {})
    if expected is None:
        with pytest.raises(UserError, match="export MASTER_ADDR=HOST"):
            first_node(environment)
    else:
        assert first_node(environment) == expected


def test_the_ranks_get_the_environment_without_what_launchers_left_and_a_share_of_the_threads(monkeypatch):
    left = {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "SLURM_NTASKS": "8", "OPENAI_API_KEY": "of a judge"}
    monkeypatch.delenv("OMP_NUM_THREADS")
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)))
    made = launch.environment(2)
    assert {name: made.get(name) for name in left} == dict.fromkeys(left) | {"OPENAI_API_KEY": "of a judge"}
    assert made["OMP_NUM_THREADS"] == "4" and str(ROOT / "tests") in made["PYTHONPATH"].split(os.pathsep)
    own = {sysconfig.get_path(name) for name in ("stdlib", "purelib")}  # another interpreter (sampler.python) would take them, too
    assert not own & set(made["PYTHONPATH"].split(os.pathsep))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launch.environment(2)["OMP_NUM_THREADS"] == "3" and launch.environment(20)["OMP_NUM_THREADS"] == "3"


def test_an_engine_started_by_a_rank_knows_nothing_of_the_ranks(monkeypatch, tmp_path):
    """Otherwise its own process group waits for the store of torchrun."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE", "ROLE_RANK", "SLURM_PROCID", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    told = (
        "import json, os; print(json.dumps({'names': sorted(os.environ), 'gpus': os.environ['CUDA_VISIBLE_DEVICES']}), flush=True)"
    )
    with start([sys.executable, "-c", told], {"CUDA_VISIBLE_DEVICES": "1"}, tmp_path / "log") as engine:
        found = engine.receive()
    ours = ("RANK", "LOCAL_", "WORLD_", "TORCHELASTIC", "ROLE_", "SLURM", "MASTER")
    assert found["gpus"] == "1" and "PATH" in found["names"] and not [name for name in found["names"] if name.startswith(ours)]


def test_more_devices_than_gpus_are_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    launch.refuse_missing(4)
    with pytest.raises(UserError, match=r"^devices=8: there are 4 GPUs .* Set devices=4"):
        launch.refuse_missing(8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)))
    launch.refuse_missing(9)
    with pytest.raises(UserError, match=r"^devices=10: without a GPU these are processes on the CPU. Set devices=9 at most"):
        launch.refuse_missing(10)


def test_a_job_whose_rank_0_was_stopped_is_stopped_too(tmp_path):
    (tmp_path / "ranks").mkdir()
    write_json(tmp_path / "ranks" / "0.json", vars(Fate(rank=0, process={}, ended=1.0, code=143)))
    with pytest.raises(stop.Stopped) as stopped:
        launch.conclude(tmp_path, 1)
    assert stopped.value.code == 143


def test_one_rank_alone_computes_everything_itself(monkeypatch):
    assert (ranks.rank(), ranks.world()) == (0, 1)
    assert ranks.share(lambda item, add=0: item + add, [1, 2, 3], {"add": 10}) == [11, 12, 13]
    assert ranks.everywhere(lambda item, add=0: item + add, 1, here={"add": 10}) == 11
    assert list(rounds([1, 2, 3, 4, 5], 2)) == [[[1, 2]], [[3, 4]], [[5]]]
    monkeypatch.setattr(ranks, "world", lambda: 2)
    assert list(rounds([1, 2, 3, 4, 5], 2)) == [[[1, 2], [3, 4]], [[5]]]
