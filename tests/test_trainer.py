"""Training and scoring are one process's work on one device, whatever a scheduler's or launcher's variables say, and go on from a
checkpoint of their own or from none."""

import dataclasses
import json
import signal

import pytest
import torch
from conftest import SMALL, compose, preference
from lightning.fabric import accelerators as fabric
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import accelerators as pytorch
from lightning.pytorch.strategies import Strategy

from drift.config import build
from drift.errors import UserError
from drift.model.policy import policy_at
from drift.score.plan import make_plan, tokenize
from drift.score.reference import Reference, ReferenceDiffers, reference_stage
from drift.score.trainer import make_trainer
from drift.store import Store, manifest
from drift.train.fit import fit, train_stage
from drift.train.frozen import num_frozen

SCHEDULERS = {
    "slurm": {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3",
        "SLURM_NODEID": "1", "SLURM_NODELIST": "n[1-2]",
    },
    "torchrun, LSF, Kubeflow": {
        "TORCHELASTIC_RUN_ID": "7", "RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4", "GROUP_RANK": "1", "MASTER_ADDR": "n1",
        "MASTER_PORT": "29500", "KUBERNETES_PORT": "tcp://n1:443", "LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "ranks",
        "JSM_NAMESPACE_LOCAL_RANK": "3", "JSM_NAMESPACE_SIZE": "4", "JSM_NAMESPACE_RANK": "3",
        "PL_TRAINER_MAX_STEPS": "1", "PL_TRAINER_LIMIT_PREDICT_BATCHES": "1",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def work(tiny, tokenizer):
    """((train settings, objectives), start policy, plan) of three steps."""
    run = build(compose(*SMALL, "train.checkpoint_every_steps=1", "train.precision=float32"))
    train = run.train
    pairs = [preference(f"Question {i}?", f"A good answer, {i}.", f"No {i}.", record=str(i)) for i in range(6)]
    shape = {
        "layout": train.layout,
        "examples_per_step": 2,
        "tokens_per_batch": 500,
        "example_order": train.example_order,
        "seed": 0,
    }
    shape |= {"longest_mismatched": None}
    return (train, run.objective), policy_at(tiny), make_plan(tokenize(tokenizer, pairs), **shape)


def trained(work, folder, on_step=lambda history: None):
    """Every file of a reference pass and a training in a store of their own."""
    (train, objectives), start, rows = work
    store = Store(dir=str(folder), strict=False, verify=False, lease_seconds=30.0, keep_policies="all")
    scored = reference_stage(store, train.compute, start, rows, layers=num_frozen(train, start, rows))
    done = train_stage(store, train, objectives, start, start, rows, scored, epochs=1, on_step=on_step)
    files = [file for stage in (scored, done) for file in stage.path.rglob("*") if file.is_file() and file.name != "manifest.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def plain(work, tmp_path_factory):
    return trained(work, tmp_path_factory.mktemp("plain"))


def test_the_trainer_is_on_the_device_of_the_model_also_beside_another_accelerator(monkeypatch):
    """That of a Mac, on which nothing here is computed."""
    for kind in (fabric.MPSAccelerator, pytorch.MPSAccelerator):
        monkeypatch.setattr(kind, "is_available", staticmethod(lambda: True))
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert make_trainer("32-true", enable_checkpointing=False).strategy.root_device.type == expected


def test_log_probs_from_another_environment_that_differ_here_are_named_with_their_folder(work, tmp_path):
    """As a reference pass of another GPU does. Of this environment, the difference is a fault of the program."""
    (train, objectives), start, rows = work
    store = Store(dir=str(tmp_path), strict=False, verify=False, lease_seconds=30.0, keep_policies="all")
    scored = reference_stage(store, train.compute, start, rows, layers=num_frozen(train, start, rows))
    values = json.loads((scored.path / "reference.json").read_text())
    values["replies"] = [[value + 1e-3 for value in replies] for replies in values["replies"]]
    for other, error in (({}, ReferenceDiffers), ({"torch": "1.0", "device": "another GPU"}, UserError)):
        made = manifest.listed(scored.path)
        (scored.path / "reference.json").write_text(json.dumps(values))
        manifest.put(scored.path, made | {"environment": made["environment"] | other})
        with pytest.raises(error, match="Step-0 check failed") as raised:
            train_stage(store, train, objectives, start, start, rows, scored, epochs=1, on_step=lambda history: None)
    for part in ("torch 1.0 -> ", "device another GPU -> ", f"Delete {scored.path}, and the same command"):
        assert part in str(raised.value)


def test_no_optimiser_is_left_when_a_training_ends_or_fails(work, tmp_path, monkeypatch):
    """Lightning would move its state to the CPU: for AdamW twice the weights, while the next one waits for the device."""
    left, end = [], Strategy.teardown
    monkeypatch.setattr(Strategy, "teardown", lambda self: (left.append(list(self.optimizers)), end(self)))
    with pytest.raises(KeyError):
        trained(work, tmp_path, on_step=lambda history: {}["an error"])
    trained(work, tmp_path)
    assert left == [[]] * 3, "of the reference pass, the training that fails, and that which does not"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_environment_and_the_working_folder_do_not_change_training(scheduler, plain, work, tmp_path, monkeypatch):
    """The stray file has the name that Lightning gives to what it saves when SLURM sends SIGUSR1 and looks for in later jobs."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "hpc_ckpt_1.ckpt").write_bytes(b"of another job")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as its import sets it, from these variables
    for name, value in SCHEDULERS[scheduler].items():
        monkeypatch.setenv(name, value)
    handlers, before = [], signal.getsignal(signal.SIGUSR1)
    found = trained(work, tmp_path / "store", on_step=lambda history: handlers.append(signal.getsignal(signal.SIGUSR1)))
    assert found.keys() == plain.keys() and len(found) > 4 and any(name.endswith("adapter_model.safetensors") for name in found)
    assert [name for name in plain if plain[name] != found[name]] == []
    assert handlers == [before] * 3
    assert [file.name for file in (tmp_path / "here").iterdir()] == ["hpc_ckpt_1.ckpt"]


class Enough(Exception):
    pass


def test_a_checkpoint_is_resumed_from_by_its_own_stage_only(plain, work, tmp_path, capsys):
    (train, objectives), start, rows = work
    values = next(Reference(**json.loads(content)) for name, content in plain.items() if name.endswith("reference.json"))
    train = dataclasses.replace(train, frozen_cache_gib=0.0)

    def attempt(progress, stop_after):
        made = []

        def on_step(history):
            made.append(len(history))
            if len(history) == stop_after:
                raise Enough

        for folder in (progress, "output"):
            (tmp_path / folder).mkdir(exist_ok=True)
        folders = (tmp_path / "none", tmp_path / progress, tmp_path / "output")
        fit(train, objectives, start, rows, values, *folders, same=True, epochs=1, on_step=on_step)
        return made

    with pytest.raises(Enough):
        attempt("key.progress", stop_after=3)
    (tmp_path / "other.progress").mkdir()
    kept = (tmp_path / "key.progress" / "last.ckpt").read_bytes()
    (tmp_path / "other.progress" / "last.ckpt").write_bytes(kept)
    assert attempt("key.progress", stop_after=None) == [3] and "Training resumes at step 3 of 3." in capsys.readouterr().out
    policy = (tmp_path / "output" / "policy" / "adapter_model.safetensors").read_bytes()
    assert attempt("other.progress", stop_after=None) == [1, 2, 3]
    assert "made by another training (key) and is not used" in capsys.readouterr().out
    assert (tmp_path / "output" / "policy" / "adapter_model.safetensors").read_bytes() == policy


def test_what_a_kill_left_of_a_checkpoint_is_removed_when_training_resumes(work, tmp_path, plain):
    class Killed(BaseException):
        pass

    def kill(history):
        if len(history) == 2:
            raise Killed

    with pytest.raises(Killed):
        trained(work, tmp_path, kill)
    (progress,) = tmp_path.glob("train/*.progress.*")
    (progress / ".last.ckpt.0123456789abcdef").write_bytes(b"half of it")
    seen = []
    again = trained(work, tmp_path, lambda history: seen.extend(tmp_path.glob("train/*.progress.*/.last.ckpt.*")))
    assert again == plain and not seen
