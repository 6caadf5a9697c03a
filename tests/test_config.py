"""What a user can get wrong is refused before anything heavy loads, with the nearest valid name and what to do."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, command, compose, feedback_file

from drift import chosen
from drift.compose import CONF
from drift.config import build
from drift.errors import UserError, memory_advice, nearest, need_package

LOG = ("data=jsonl", f"data.path={ROOT}/experiments/miner/labels.jsonl")
WRONG = [
    (["+sede=1"], "Unknown key sede. Did you mean seed?"),
    (["+train.learning_rte=1"], "Did you mean train.learning_rate|Did you mean learning_rate"),
    (["train.learning_rate=fast"], "train.learning_rate=fast: expected a number, got str"),
    (["train.optimizer=adam"], "expected one of adamw, adamw_8bit, rmsprop, got str. Did you mean adamw"),
    (["iterations=1.5"], "iterations=1.5: expected a whole number"),
    (["store.strict=3"], "store.strict=3: expected true or false"),
    (["examples_per_iteration=many"], "expected a whole number or null"),
    (["examples_per_iteration=0"], r"examples_per_iteration >= 1 \(or null\)"),
    (["experiment=fixed-logs"], r"experiment=fixed-logs: there is no conf/experiment/fixed-logs\.yaml\. Did you mean fixed-log\?"),
    (["objective=[dpo,nlll]"], r"objective=nlll: there is no conf/objective/nlll\.yaml\. Did you mean nll\?"),
    (["data=jsonl", "data.path=''"], "data.path is empty"),
    (["data=jsonl", "data.path=logs/nosuch.jsonl"], "data.path=logs/nosuch.jsonl: no such file or directory"),
    (["train.learning_rate=nan"], "train.learning_rate=nan: expected a number"),
    (["train.learning_rate=[1,2]"], "expected a number, got a list"),
    (["seed={a:1}"], "expected a whole number, got a group of settings"),
    (["intake.languages=en"], r"intake.languages=en: expected a list \(\[a, b\]; each item text\) or null, got str"),
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
    (["data=jsonl", f"data.path={ROOT}/experiments/miner/labels.jsonl", "method=iterdpo"], "judge=reward_model method.judge.path"),
    (
        ["data=jsonl", f"data.path={ROOT}/experiments/miner/labels.jsonl", "judge@filters.judge=verifier"],
        "^filters.judge .* known truth.* judge@filters.judge=reward_model filters.judge.path=.*without: filters.judge=null",
    ),
    (["filters.judge=reward_model"], "To choose a judge: judge@filters.judge=reward_model"),
    (["judge@filters.judge=reward_model"], "filters.judge.path has no value yet"),
    (["sampler.max_new_tokens=600"], "leaves no room for a prompt"),
    (["sampler.top_p=0"], "0 < top_p <= 1"),
    (["train.epochs=0"], "train.epochs=0: expected at least 1"),
    (["train.adapter.top_share=2"], "top_share <= 1"),
    (["train.adapter.scale=0"], "scale > 0"),
    (["model=null"], "model=null: expected the name of an option of model: .*smollm2"),
    (["judge=null"], "judge=null: leave this out, and there is none"),
    (["model=5"], "expected the name of an option of model"),
    (["method=[drift,spin]"], "method takes one option. To compare several: -m method=drift,spin"),
    (["~model"], "~model: a run can't go without it. Choose an option instead, model=NAME"),
    (["objective.nll=null"], r"objective.nll is no objective. To go without it, leave it out of the list: objective=\[dpo\]"),
    (["evaluation.deployment=null"], "evaluation.deployment is no evaluation"),
    (["method.rounds=0"], "method.rounds=0: expected at least 1"),
    (["method=random_logged", "method.num_samples=0"], "method.num_samples=0: expected at least 1"),
    (["sampler.temperature=99999999999999999999999999"], "expected a number, got a whole number"),
    (["store.lease_seconds=0"], "store.lease_seconds=0: expected 1 to 1,000,000"),
    (["seed=${nope}"], "seed: Interpolation key 'nope' not found. Set the variable, or give a value"),
    (["store.dir=${oc.env:NO_SUCH_VARIABLE}/store"], "store.dir: .*NO_SUCH_VARIABLE' not found"),
    (["alarms.cut_share=75"], "alarms.cut_share=75 would never be raised: expected a share from 0 to 1"),
    (["alarms.entropy_share=-1"], "alarms.entropy_share=-1 would never be raised"),
    (["model.template=abc"], "expected a group of settings"),
    ([*LOG, "intake.languages=[]"], "expected codes of two letters"),
    ([*LOG, "intake.languages=[EN]"], "expected codes of two letters"),
    ([*LOG, "intake.drop_flagged=[toxicc]"], "toxicc is no flag of a source. Did you mean toxic"),
    ([*LOG, "data.split=train"], "data.split=train selects from a hub data set or a directory, but .* is a file"),
    (["method=iterdpo", "method.num_samples=1"], "ranking needs at least 2"),
    (["previous_share=1"], "below 1"),
    (["data=jsonl", f"data.path={ROOT}/experiments/miner/labels.jsonl", "refresh_log=true"], "Expected data=deployment"),
    (["method.guidance.share=2"], "method.guidance.share=2"),
    (["filters.copied_words=0"], "expected at least 1"),
    (["evaluation.deployment.num_prompts=100000"], "too few topics"),
    (["warmup_epochs=3"], "Add data.second_tries=true, or set warmup_epochs=0"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(overrides) for overrides, _ in WRONG])
def test_wrong_settings_are_refused_with_what_to_do(overrides, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        build(compose(*overrides))


NOT_TAKEN = [  # (command line, what is said)
    ("method=spin method.guidance.share=1", "method.guidance.share. It goes with method=drift, iterdpo or random_logged, not with"),
    ("method.judge.noise=0", "^Unknown key method.judge.noise. It goes with method=iterdpo, not with the chosen option of method"),
    ("judge.noise=0", "^Unknown key judge.noise. A judge goes with method=iterdpo, and its settings are method.judge"),
    ("judge=verifier", "^Unknown key judge. A judge goes with method=iterdpo"),
    ("method=iterdpo judge=verifyer", "Did you mean verifier"),
    ("guidance.share=1", "Did you mean method.guidance.share"),
    ("train=full train.adapter.rank=8", "It goes with train=lora or qlora"),
    ("model.path=x", "It goes with model=llama-3.1-8b-instruct, olmo-2-7b-instruct, pretrained, "),
    ("logger.project=x", "It goes with logger=wandb"),
    ("mine=rules", "mine has no effect on this data set"),
    ("mine.dsat_threshold=0.5", "mine.dsat_threshold has no effect on this data set. .* It is for data=messages, sharegpt"),
    ("data=records data.path=LOG intake.redact=true", "intake.redact has no effect on this data set. It reads finished records"),
    ("data=records data.path=LOG mine=cascade mine.endpoint.url=http://localhost mine.endpoint.model=m", "mine has no effect"),
    ("experiment=paper-7b model=tiny method=spin method.guidance.share=0.5", "It goes with method=drift, iterdpo or random_logged"),
]


@pytest.mark.parametrize(("given", "message"), NOT_TAKEN, ids=[given for given, _ in NOT_TAKEN])
def test_a_setting_that_the_chosen_parts_do_not_take_is_refused_like_a_typo(given, message, tmp_path):
    (tmp_path / "log.jsonl").write_text("{}\n")
    overrides = given.replace("LOG", f"{tmp_path}/log.jsonl").split()
    with pytest.raises(UserError) as refused:
        build(compose(*overrides), overrides)
    said = str(refused.value)
    assert re.search(message, said) and len(said) < 400, said


@pytest.mark.parametrize(
    "given",
    [
        "method=iterdpo judge=verifier method.judge.noise=0 method.guidance.share=1",
        "intake.leakage=keep",
        "data=records data.path=LOG intake.max_records=4 intake.seed=1",
        "data=messages data.path=LOG intake.redact=true mine=rules",
    ],
)
def test_settings_that_the_chosen_parts_take_are_accepted(given, tmp_path):
    (tmp_path / "log.jsonl").write_text("{}\n")
    overrides = given.replace("LOG", f"{tmp_path}/log.jsonl").split()
    build(compose(*overrides), overrides)


@pytest.mark.parametrize("method", ["drift", "spin", "iterdpo"])
def test_an_experiment_sets_what_the_chosen_method_takes_and_leaves_out_the_rest(method):
    """SPIN has no guidance: it goes without, though the experiment sets one."""
    config = compose("experiment=paper-7b", "model=tiny", "data.second_tries=true", f"method={method}")
    run = build(config)
    assert (run.train.adapter, run.warmup_epochs, run.examples_per_iteration, run.sampler.max_new_tokens) == (None, 3, None, 512)
    assert config.method.get("guidance", {}).get("share") == (None if method == "spin" else 1.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "method=foo",
            "method=foo: there is no conf/method.foo.yaml. Known: drift, iterdpo, random_logged, sdpo, sft, spin, unpaired.$",
        ),
        ("hydra/launcher=submitit_slurm", "pip install hydra-submitit-launcher.$"),
        ("hydra/launcher=joblib", "pip install hydra-joblib-launcher.$"),
        ("hydra/sweeper=optuna", "pip install hydra-optuna-sweeper.$"),
        ("hydra/launcher=submit_slurm", "no such choice. Did you mean submitit_slurm.$"),
        ("hydra/sweeper=zzz", "Known: ax, basic, nevergrad, optuna.$"),
        ("num_gpus=4", "^Unknown key num_gpus. devices=N shares one run"),
        ("+trainer.devices=4", "Unknown key trainer"),
        ("data.ignore_field=[x]", "Did you mean data.ignore_fields"),
        ("num_nodes=2", "for several machines see docs/devices.md"),
        ("qwertyuiop=1", r"^Unknown key qwertyuiop. \(drift run --cfg job shows every key.\)$"),
    ],
)
def test_errors_of_hydra_become_one_sentence(override, message):
    with pytest.raises(UserError) as refused:
        build(compose(override))
    said = str(refused.value)
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
        (["objective=[nll]"], "objective=[nll] compares no replies: this is supervised fine-tuning"),
        (["method=sft"], None),
        (["method=unpaired"], None),
    ],
)
def test_settings_that_may_be_unintended_get_a_note(overrides, message):
    from drift.job import unusual

    notes = unusual(build(compose(*overrides)))
    assert len(notes) == 1 and notes[0].startswith(message) if message else notes == []


ONE = ["iterations=1"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (ONE, None),
        (["iterations=2", "previous_share=0.5"], None),
        ([*ONE, "previous_share=0.5"], "previous_share changes nothing: there is one iteration."),
        ([*ONE, "train.rate_decay=0.5"], "train.rate_decay changes nothing"),
        ([*ONE, "refresh_log=true"], "refresh_log changes nothing"),
        ([*ONE, "reference=start"], "reference changes nothing"),
        (
            ["examples_per_iteration=null", "method.rounds=8"],
            "method.rounds changes nothing: examples_per_iteration=null goes through",
        ),
        (["examples_per_iteration=null"], None),
        (["data.second_tries=true"], "data.second_tries changes the log only"),
        (["data.second_tries=false"], None),
    ],
)
def test_a_setting_that_changes_nothing_in_this_run_is_noted(given, message):
    notes = chosen.idle(build(compose(*given), given), given)
    assert len(notes) == 1 and notes[0].startswith(message) if message else notes == []


def test_a_model_with_settings_of_its_own_says_which_experiment_has_them():
    note = "the default settings suit a small model; experiment=paper-7b has settings for model=qwen2.5-7b-instruct."
    assert chosen.suited("qwen2.5-7b-instruct", None, CONF) == [note]
    assert chosen.suited("qwen2.5-7b-instruct", "paper-7b", CONF) == chosen.suited("tiny", None, CONF) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sede=1", "Unknown key sede. Did you mean seed?"),
        ("method=drfit", "Did you mean drift? Known: drift, iterdpo, random_logged, sdpo, sft, spin, unpaired"),
        ("iterations=-1", "Expected iterations >= 0"),
        ("modle=tiny", "Did you mean model?"),
        ("objective.dpo.beta=x", "expected a number"),
        ("method=sft objective=[dpo]", "objective=dpo compares two replies to a prompt, but this method makes examples with one"),
        ("objective=[sdpo]", "objective=sdpo learns from what a user said after a reply, which this method's examples leave out"),
        ("method=sdpo objective=[dpo]", "objective=[dpo] does not learn from what a user said after a reply, which this method is"),
        ("method=sdpo objective=[sdpo,dpo]", "objective=dpo compares two replies to a prompt"),
        ("method=sdpo warmup_epochs=1 data.second_tries=true", "warmup_epochs=1 trains on pairs, which objective=sdpo can't learn"),
        ("method=sdpo method.context=x", "method.context='x': expected {feedback} in it, where the user's words belong"),
        ("method=sdpo objective.sdpo.ignored_tokens=-1", "expected weight above 0 and ignored_tokens of at least 0"),
        ("objective=[]", "objective=[]: at least one objective is needed. The default is objective=[dpo,nll]."),
        ("data=jsonl data.path=x data.num_prompts=8", "It goes with data=deployment, not with the chosen option of data"),
        ("intake.redact=true", "intake.redact has no effect on this data set. Simulated users state their opinion"),
    ],
)
def test_the_command_line_says_it_in_a_line_and_leaves_no_folder(argument, message, tmp_path):
    done = command(*argument.split(), f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and "Error executing job" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_sweep_with_a_wrong_member_does_not_start(cache, tmp_path):
    log = feedback_file(tmp_path / "log.jsonl")
    done = command(
        "-m", "model=tiny", f"model.cache_dir={cache}", "method=drift,iterdpo", "data=jsonl", f"data.path={log}",
        f"store.dir={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/study",
    )  # fmt: skip
    assert done.returncode == 1 and "known truth" in done.stderr and "Traceback" not in done.stderr
    assert (
        "In the member model=tiny" in done.stderr and "method=iterdpo" in done.stderr and "the sweep was not started" in done.stderr
    )
    assert not (tmp_path / "store").exists() and not (tmp_path / "study").exists()


def test_a_sweep_with_a_setting_that_one_member_does_not_take_does_not_start(tmp_path):
    sweep = ["-m", "model=tiny", "method=drift,spin", f"store.dir={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/study"]
    done = command(*sweep, "method.guidance.share=1")
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stdout == ""
    assert "It goes with method=drift, iterdpo or random_logged" in done.stderr and "Other members are valid." in done.stderr
    assert "In the member model=tiny method=spin" in done.stderr and "the sweep was not started" in done.stderr
    assert "hydra.run.dir=FOLDER/NAME" in done.stderr and not list(tmp_path.iterdir())


def test_help_lists_choices_and_usage():
    done = command("--help")
    assert done.returncode == 0
    for text in (
        "drift run -m method=drift,spin,iterdpo",
        "method: drift, iterdpo, random_logged, sdpo, sft, spin, unpaired",
        "examples_per_iteration",
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
