"""What a user can get wrong is refused before anything heavy loads, with the nearest valid name and what to do."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, command, compose, feedback_file
from hydra.errors import HydraException

from drift.config import build, explain
from drift.errors import UserError, memory_advice, nearest, need_package

WRONG = [
    (["+sede=1"], "Unknown key sede. Did you mean seed?"),
    (["+train.learning_rte=1"], "Did you mean train.learning_rate|Did you mean learning_rate"),
    (["train.learning_rate=fast"], "train.learning_rate=fast: expected a number, got str"),
    (["train.optimizer=adam"], "expected one of adamw, adamw_8bit, rmsprop, got str. Did you mean adamw"),
    (["iterations=1.5"], "iterations=1.5: expected a whole number"),
    (["store.strict=3"], "store.strict=3: expected true or false"),
    (["pairs_per_iteration=many"], "expected a whole number or null"),
    (["train.learning_rate=nan"], "train.learning_rate=nan: expected a number"),
    (["train.learning_rate=[1,2]"], "expected a number, got a list"),
    (["seed={a:1}"], "expected a whole number, got a group of settings"),
    (["intake.languages=en"], r"intake.languages=en: expected a list \(\[a, b\]; each of it text\) or null, got str"),
    (["intake.drop_flagged=3"], "expected a list"),
    (["intake.drop_flagged=[toxic,3]"], "expected a list"),
    (["logger=wandb", "logger.tags=abc"], "logger.tags=abc: expected a list"),
    (["~seed"], "Missing key seed"),
    (["method._target_=drift.method.nothing.X"], "can't be imported"),
    (["model=pretrained"], "model.path has no value yet"),
    (["model=pretrained", "model.path=nobody/nothing"], "hf download nobody/nothing"),
    (["model=pretrained", "model.path=/no/where"], "neither a directory nor a hub id"),
    (["model=pretrained", f"model.path={ROOT}"], "has no config.json"),
    (["model=qwen2.5-7b-instruct"], "hf download Qwen/Qwen2.5-7B-Instruct --revision a09a35458c702b33eeacc393d103063234e8bc28"),
    (["data=jsonl", "data.path=/no/file"], "no such file"),
    (["data=jsonl", f"data.path={ROOT}/experiments/miner/labels.jsonl", "evaluation=deployment"], "needs data=deployment"),
    (["data=jsonl", f"data.path={ROOT}/experiments/miner/labels.jsonl", "method=iterdpo"], "known truth"),
    (["sampler.max_new_tokens=600"], "leaves no room for a prompt"),
    (["sampler.top_p=0"], "0 < top_p <= 1"),
    (["train.epochs=0"], "train.epochs=0: expected at least 1"),
    (["train.adapter.top_share=2"], "top_share <= 1"),
    (["method=iterdpo", "method.num_samples=1"], "ranking needs at least 2"),
    (["previous_share=1"], "below 1"),
    (["data=jsonl", f"data.path={ROOT}/experiments/miner/labels.jsonl", "refresh_log=true"], "expected data=deployment"),
    (["guidance.share=2"], "guidance.share=2"),
    (["filters.copied_words=0"], "expected at least 1"),
    (["evaluation.deployment.num_prompts=100000"], "too few topics"),
    (["warmup_epochs=3"], "Add data.second_tries=true, or set warmup_epochs=0"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(overrides) for overrides, _ in WRONG])
def test_wrong_settings_are_refused_with_what_to_do(overrides, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        build(compose(*overrides))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=foo", "method=foo: there is no conf/method.foo.yaml. Known: drift, iterdpo, random_logged, spin.$"),
        ("hydra/launcher=submitit_slurm", "pip install hydra-submitit-launcher.$"),
        ("hydra/launcher=joblib", "pip install hydra-joblib-launcher.$"),
        ("hydra/sweeper=optuna", "pip install hydra-optuna-sweeper.$"),
        ("hydra/launcher=submit_slurm", "no such choice. Did you mean submitit_slurm.$"),
        ("hydra/sweeper=zzz", "Known: ax, basic, nevergrad, optuna.$"),
        ("devices=4", "^Unknown key devices. A run uses one device"),
        ("+trainer.devices=4", "Unknown key trainer"),
        ("num_nodes=2", "A run uses one device"),
        ("qwertyuiop=1", r"^Unknown key qwertyuiop. \(python run.py --cfg job shows every key.\)$"),
    ],
)
def test_what_hydra_refuses_is_answered_in_a_sentence(override, message):
    with pytest.raises((HydraException, UserError)) as refused:
        build(compose(override))
    said = explain(refused.value, ROOT / "conf") if isinstance(refused.value, HydraException) else str(refused.value)
    assert re.search(message, said) and len(said) < 400, said


def test_a_folder_of_a_packages_name_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "wandbox").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="needs the package wandbox. Install it: pip install .*wandb"):
        need_package("wandbox", "logger=wandb", extra="wandb")
    need_package("hydra", "x", extra="x")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], None),
        (["iterations=0"], "iterations=0: nothing is trained"),
        (["iterations=0", "warmup_epochs=1", "data.second_tries=true"], None),
        (["train.loss.sigmoid=0"], "no preference loss has a weight, only train.loss.nll=0.1: this is supervised"),
    ],
)
def test_settings_that_nobody_may_have_meant_are_said(overrides, message):
    from drift.job import unusual

    notes = unusual(build(compose(*overrides)))
    assert len(notes) == 1 and notes[0].startswith(message) if message else notes == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sede=1", "Unknown key sede. Did you mean seed?"),
        ("method=drfit", "Did you mean drift? Known: drift, iterdpo, random_logged, spin"),
        ("iterations=-1", "Expected iterations >= 0"),
        ("modle=tiny", "Did you mean model?"),
        ("train.loss.beta=x", "expected a number"),
        ("data=jsonl data.path=x data.num_prompts=8", "It belongs to another option of data than the one chosen"),
    ],
)
def test_the_command_line_says_it_in_a_line_and_leaves_no_folder(argument, message, tmp_path):
    done = command(*argument.split(), f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and "Error executing job" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_sweep_with_a_wrong_member_begins_nothing(cache, tmp_path):
    log = feedback_file(tmp_path / "log.jsonl")
    done = command(
        "-m", "model=tiny", f"model.cache_dir={cache}", "method=drift,iterdpo", "data=jsonl", f"data.path={log}",
        f"store.dir={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/study",
    )  # fmt: skip
    assert done.returncode == 1 and "known truth" in done.stderr and "Traceback" not in done.stderr
    assert "In the member model=tiny" in done.stderr and "method=iterdpo" in done.stderr and "nothing was begun" in done.stderr
    assert not (tmp_path / "store").exists() and not (tmp_path / "study").exists()


def test_help_lists_choices_and_usage():
    done = command("--help")
    assert done.returncode == 0
    for text in (
        "python run.py -m method=drift,spin,iterdpo",
        "method: drift, iterdpo, random_logged, spin",
        "pairs_per_iteration",
    ):
        assert text in done.stdout


def test_config_and_its_targets_load_nothing_heavy():
    code = (
        "import sys; sys.path.insert(0, 'tests'); from conftest import compose; from drift.config import build\n"
        "for m in ('drift', 'spin', 'iterdpo'): build(compose('method=' + m, 'model=tiny'))\n"
        "heavy = {'torch', 'lightning', 'transformers', 'peft', 'scipy', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_nearest_names_one_or_lists_all():
    assert nearest("lern", ["learn", "beta"]) == " Did you mean learn?"
    assert nearest("xyz", ["learn", "beta"]) == " Known: beta, learn."


def test_out_of_memory_names_the_setting_to_halve():
    with pytest.raises(UserError, match="Halve it .sampler.group_size=48"), memory_advice("sampler.group_size", 96):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    with pytest.raises(RuntimeError, match="shape"), memory_advice("sampler.group_size", 96):
        raise RuntimeError("shape mismatch")
