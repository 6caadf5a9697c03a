"""The planner: parts of the memory, times and sizes by hand, what it refuses and what it advises."""

import json
import re
from dataclasses import replace

import pytest
from conftest import ROOT, SMALL, command, compose, perform
from test_plan_shape import QWEN, qwen, setup

from drift.config import build
from drift.errors import UserError
from drift.model.policy import load_model, policy_at, save_policy
from drift.plan import activations, calibrate, disk, fit, memory, rates, text, work
from drift.plan import command as plan
from drift.plan.device import Device, allowed_bytes, device_at_hand
from drift.plan.forecast import forecast
from drift.plan.memory import Batch
from drift.plan.rates import STATED
from drift.plan.shape import Shape, shape_of
from drift.plan.work import Rates, Workload
from drift.train.lora import Lora

GB, GIB = 10**9, 2**30
# Two layers: q 8x8, k and v 8x4, o 8x8, gate and up 8x12, down 12x8: 480 numbers in matrices and 16 in norms; 100 tokens
SMALLEST = Shape(
    kind="llama", layers=2, hidden=8, intermediate=12, heads=2, query=8, key=4, vocabulary=100, tied=True, norms=16, key_norms=0,
    biased=(), file_bytes=2,
)  # fmt: skip
WORK = Workload(examples=4, replies=2, prompt_tokens=6, reply_tokens=3, samples=5, sample_prompt_tokens=6, sample_tokens=2,
                steps=2, batches=4, epochs=1, hindsight=False, mismatched=False)  # fmt: skip
H100 = Device(kind="cuda", name="a GPU of 80 GB", total=80 * GB, free=79 * GB, threads=8)


def test_weights_gradients_and_optimiser_by_hand():
    assert SMALLEST.total == 2 * (480 + 16) + 8 + 800 == 1800
    full, lora = setup(optimizer="rmsprop"), setup(adapted=1, rank=2, weight_bytes=2, compute_bytes=2)
    assert memory.weights(SMALLEST, 4, quantised=False) == 7200
    assert memory.gradients(SMALLEST, full) == memory.optimizer_state(SMALLEST, full) == 7200
    assert memory.optimizer_state(SMALLEST, replace(full, optimizer="adamw")) == 14400
    assert memory.optimizer_state(SMALLEST, replace(full, optimizer="adamw_8bit")) == 2 * 1800 + 8 * 8  # 8 blocks of 256
    assert memory.trained(SMALLEST, lora) == 2 * (16 + 12 + 12 + 16 + 20 + 20 + 20) == 232
    assert memory.gradients(SMALLEST, lora) == 928 and memory.optimizer_state(SMALLEST, lora) == 1856
    # 480 = 2 x 64 + 4 x ... : each matrix has its own scales: 1 + 1 + 1 + 1 + 2 + 2 + 2 = 10 bytes and 7 x 4 for their scales
    assert memory.weights(SMALLEST, 2, quantised=True) == 2 * (240 + 10 + 28) + 2 * (1800 - 960)


def test_activations_and_logits_by_hand():
    full, mixed = setup(), setup(compute_bytes=2)
    # norms 2 (4 x 8 + 4) + 4 x 16, inputs 4 x 16, attention 4 x 24, feed-forward 4 x 48
    assert activations.kept_per_token(SMALLEST, full) == 72 + 64 + 64 + 96 + 192 == 488
    assert activations.activations(SMALLEST, full, 10) == 2 * 10 * 488
    assert activations.activations(SMALLEST, replace(full, checkpointing=True), 10) == 10 * (2 * 32 + 488)
    assert activations.rounded_weights(SMALLEST, full) == 0 and activations.rounded_weights(SMALLEST, mixed) == 2 * 2 * 480
    # 7 predicted tokens: two chunks in float32 (and one in bfloat16), hidden numbers, the head's gradient (and rounded copies, on a
    # CPU one)
    assert activations.logits(SMALLEST, full, 10, 7, training=True) == 7 * 100 * 8 + 7 * 8 * 4 + 4 * 800
    assert activations.logits(SMALLEST, mixed, 10, 7, training=True) == 7 * 100 * 10 + 7 * 8 * 2 + 6 * 800
    assert activations.logits(SMALLEST, mixed, 10, 7, training=False) == 7 * 100 * 10 + 7 * 8 * 2 + 2 * 800
    lora = setup(adapted=1, rank=2)
    assert activations.logits(SMALLEST, lora, 10, 7, training=True) == 7 * 100 * 8 + 2 * 7 * 8 * 4
    assert activations.logits(SMALLEST, replace(lora, shared=False), 10, 7, training=True) == 10 * 100 * 16
    assert activations.logits(SMALLEST, replace(lora, device="cuda"), 10, 7, training=True) == 2**28 * 8 + 2 * 7 * 8 * 4


def test_a_peak_is_the_sum_of_its_parts_at_the_worst_moment():
    batch = Batch(tokens=10, predicted=7, longest=9, several=True)
    parts = memory.training(SMALLEST, setup(), batch)  # activations: 9,760 and what the heap loses, 35 %
    assert parts == {
        "libraries": memory.LIBRARIES["cpu"], "weights": 7200, "optimiser": 14400, "gradients": 7200, "activations": 13176,
        "vocabulary": 7 * 100 * 8 + 7 * 8 * 4 + 3200,
    }  # fmt: skip
    alone = memory.training(SMALLEST, setup(), replace(batch, several=False))
    assert memory.total(parts) - memory.total(alone) == 7200  # the activations go as the gradients come
    drawn = memory.sampling(SMALLEST, setup(), bytes_each=4, replies=3, prompt_tokens=6, new_tokens=2)
    once = memory.total(memory.reference(SMALLEST, setup(), batch))
    assert once == memory.LIBRARIES["cpu"] + 7200 + 640 + 7 * 100 * 8 + 7 * 8 * 4
    long = memory.reference(replace(SMALLEST, layers=100), setup(), batch)
    assert long["file"] == long["weights"] // 2  # float32 from a file in bfloat16: both are there for a moment
    assert drawn["keys and values"] == 2 * 2 * 4 * 4 * 3 * 8
    assert drawn["vocabulary"] == max(3 * 100 * 12, 18 * (36 + 16) * 4)


def test_an_adapters_heap_loses_as_much_as_its_activations_and_layers_that_are_not_computed_are_not_read():
    """One layer of two, 496 numbers each, is kept as outputs. Weights that are converted when they are loaded are all in memory."""
    batch, lora = Batch(tokens=10, predicted=7, longest=9, several=True), setup(adapted=1, rank=2, frozen=True, file_bytes=4)
    parts = memory.training(SMALLEST, lora, batch)
    assert parts["weights"] == 7200 - 4 * 496 and parts["activations"] == 2 * activations.activations(SMALLEST, lora, 10)
    for read in (replace(lora, file_bytes=2), replace(lora, frozen=False), replace(lora, device="cuda")):
        assert memory.training(SMALLEST, read, batch)["weights"] == 7200
    assert memory.reference(SMALLEST, lora, batch)["weights"] == 7200


def test_the_memory_of_several_devices_by_hand():
    """Four devices; weights 7,200 bytes, outside the layers 808 numbers. ddp adds buckets as large as the gradients, which the
    gradients are in when the update comes. fsdp: a fourth of everything, and what is together."""
    batch, one = Batch(tokens=1, predicted=1, longest=1, several=True), setup(optimizer="rmsprop", device="cuda", file_bytes=4)
    ddp, fsdp = replace(one, devices=4), replace(one, devices=4, divided=True)
    fixed = {"libraries": memory.LIBRARIES["cuda"], "weights": 7200, "optimiser": 7200}
    assert memory.training(SMALLEST, ddp, batch)["buckets"] == 7200 and "buckets" not in memory.training(SMALLEST, one, batch)
    assert memory.share(fixed, ddp) == fixed
    assert memory.share(fixed, fsdp) == fixed | {"weights": 1800, "optimiser": 1800}
    assert memory.share(fixed, replace(fsdp, offloaded=True)) == fixed | {"weights": 0, "optimiser": 0}
    assert memory.together(SMALLEST, ddp, 0) == 0
    gathered = 4 * (808 + 3 * 496)
    assert [memory.together(SMALLEST, fsdp, moment) for moment in range(3)] == [
        gathered, gathered + 4 * (496 + 800) + 4 * 496, gathered + 4 * 8 + 4 * 808
    ]  # fmt: skip
    lora = replace(fsdp, adapted=1, rank=2)
    assert memory.together(SMALLEST, lora, 0) == gathered + 3 * 928 and memory.together(SMALLEST, lora, 1) == gathered + 5 * 928


def test_several_devices_share_the_work_and_processes_on_a_cpu_the_memory(config_only):
    rate = Rates(
        forward=1e3, adapted=1e3, lora=1e3, full=2e3, decode=500.0, decode_adapted=500.0, update=1800.0, batch=900.0,
        lora_batch=900.0, files=7200.0, source="measured",
    )  # fmt: skip
    one, two = (work.seconds(SMALLEST, setup(devices=devices), WORK, rate, adapted=False) for devices in (1, 2))
    fixed = {"sampling": 0.5 + 1, "reference": 0.5 + 1, "training": 1.5 + 1 + 3 + 1}  # loading; updates, a check and saving
    assert {name: 2 * (two[name] - fixed[name]) for name in one} == pytest.approx({name: one[name] - fixed[name] for name in one})
    cpu = Device(kind="cpu", name="here", total=2**40, free=2**40, threads=1)
    _, alone = of(config_only, "0.5B", "train=full", device=cpu)
    _, both = of(config_only, "0.5B", "train=full", "devices=2", device=cpu)
    stage, most = both.peak
    assert most == 2 * memory.total(both.stages[stage]) > alone.peak[1]


def test_operations_and_seconds_by_hand():
    assert WORK.tokens(shared=True) == 6 + 2 * 2 and WORK.tokens(shared=False) == 2 * 9
    at = (6 * 3 + 6 * 7.5) / 12
    once = 10 * 2 * (2 * 480 + 4 * 8 * at)
    assert work.reference_flops(SMALLEST, setup(), WORK) == 4 * (once + 2 * 800 * 6)
    assert work.training_flops(SMALLEST, setup(), WORK) == 4 * (3 * once + 4 * 2 * 800 * 6)
    lora = setup(adapted=1, rank=2)
    assert work.training_flops(SMALLEST, lora, WORK) == 4 * (once / 2 * (2 + 1) + 2 * 2 * 800 * 6)
    assert work.training_flops(SMALLEST, replace(lora, frozen=True), WORK) == 4 * (once / 2 * 2 + 2 * 2 * 800 * 6)
    told, swapped = replace(WORK, hindsight=True), replace(WORK, mismatched=True)  # SDPO, KTO
    assert work.reference_flops(SMALLEST, lora, told) == work.reference_flops(SMALLEST, lora, swapped) == 2 * 4 * (once + 9600)
    assert work.training_flops(SMALLEST, lora, told) == work.training_flops(SMALLEST, lora, WORK)
    assert work.training_flops(SMALLEST, lora, swapped) == 4 * (once / 2 * (3 + 2) + 3 * 2 * 800 * 6)
    prompts, new = work.sampling_flops(SMALLEST, WORK)
    assert prompts == 5 * 6 * 2 * (960 + 32 * 3) and new == 5 * 2 * (2 * (960 + 32 * 7) + 1600)
    rate = Rates(forward=1e3, adapted=600.0, lora=1e3, full=2e3, decode=500.0, decode_adapted=300.0, update=1800.0, batch=900.0,
                 lora_batch=240.0, files=7200.0, source="measured")  # fmt: skip
    seconds = work.seconds(SMALLEST, setup(), WORK, rate, adapted=False)
    assert seconds["sampling"] == pytest.approx(0.5 + 1 + prompts / 1e3 + new / 500)
    assert seconds["training"] == pytest.approx(1.5 + 1 + work.training_flops(SMALLEST, setup(), WORK) / 2e3 + 3 + 8 + 1)
    mixed = setup(compute_bytes=2)
    assert work.seconds(SMALLEST, mixed, WORK, rate, adapted=False)["reference"] == pytest.approx(seconds["reference"] + 4 * 2 / 3)
    low = setup(adapted=1, rank=2, weight_bytes=2, compute_bytes=2)  # 232 trained numbers; 480 in the matrices beside them
    first, later = (work.seconds(SMALLEST, low, WORK, rate, adapted=adapted) for adapted in (False, True))
    steps = work.training_flops(SMALLEST, low, WORK) / 1e3 + 232 * (3 / 1800 + 4 / 900) + 480 * 4 / 240
    assert first["training"] == later["training"] == pytest.approx(1.5 + 0.5 + steps + 928 / 7200)
    assert first["sampling"] == pytest.approx(0.5 + 0.5 + prompts / 1e3 + new / 500)
    assert later["sampling"] == pytest.approx(0.5 + 0.5 + prompts / 600 + new / 300)
    assert later["reference"] == pytest.approx(1 + work.reference_flops(SMALLEST, low, WORK) / 600)
    merged = work.seconds(SMALLEST, lora, WORK, rate, adapted=True)
    assert merged["sampling"] == pytest.approx(seconds["sampling"]), "float32"


def test_disk_by_artefact_by_hand():
    lora = setup(adapted=1, rank=2, frozen=True)
    assert disk.checkpoint_bytes(SMALLEST, lora) == 928 + 1856
    assert disk.frozen_bytes(SMALLEST, lora, WORK) == 4 * 10 * 8 * 4
    assert disk.frozen_bytes(SMALLEST, lora, replace(WORK, mismatched=True)) == 2 * 4 * 10 * 8 * 4
    found = disk.run_bytes(SMALLEST, lora, WORK, 5, 3)
    assert found["policies"] == 3 * 928 and found["texts"] == 5 * 3 * 4 * (4 * 12 + 5 * 8)


@pytest.fixture(scope="module")
def config_only(tmp_path_factory):
    """Folders with a config.json and nothing else, at the paper's sizes."""
    folder = tmp_path_factory.mktemp("configs")
    for size in QWEN:
        qwen(size).save_pretrained(folder / size)
    return folder


def of(config_only, size, *settings, device=H100):
    """(run, forecast) of settings for a model of which there is only the config.json."""
    precise = ["train.precision=bfloat16", "sampler.precision=bfloat16", "data.second_tries=true"]
    run = build(plan.without_weights(compose(*settings, "model=pretrained", f"model.path={config_only / size}", *precise)))
    return run, forecast(run, shape_of(qwen(size)), device, STATED["cuda"])


@pytest.mark.parametrize(("experiment", "size"), [("paper-7b-lora-1gpu", "7B"), ("paper-14b-qlora-1gpu", "14B")])
def test_the_experiments_for_one_gpu_fit_80_gb_by_the_plan(config_only, experiment, size):
    run, found = of(config_only, size, f"experiment={experiment}")
    assert set(found.stages) == {"sampling", "reference", "training"} and fit.fits(found)
    assert run.iterations == 2 and run.train.learning_rate == 5e-6 and run.train.adapter.top_share == 1.0


@pytest.mark.parametrize("size", ["7B", "14B"])
def test_the_papers_full_training_is_refused_on_80_gb_with_the_smallest_change_that_would_do(config_only, size):
    """Weights, gradients and RMSprop's state are 12 bytes a number: 91 GB and 177 GB. With one-byte moments and bfloat16 weights it
    is 6 bytes a number, 46 GB and 89 GB, beside activations: but the paper's rate would not move such weights."""
    run, found = of(config_only, size, f"experiment=paper-{size.lower()}")
    fixed = sum(found.stages["training"].get(part, 0) for part in ("weights", "gradients", "optimiser"))
    assert fixed == 12 * found.shape.total
    with pytest.raises(UserError, match="This run does not fit: training needs about .* GiB") as refused:
        fit.refuse_too_large(run, found)
    advised = str(refused.value).partition("It would fit with ")[2].partition(" (about")[0].split(" ")
    assert advised == ["train=lora", "train.max_tokens=2048"]
    more = {"7B": "devices=2", "14B": "devices=4"}[size]
    assert f", or with {more} train.strategy=fsdp (about" in str(refused.value)
    assert fit.fits(of(config_only, size, f"experiment=paper-{size.lower()}", more, "train.strategy=fsdp")[1])
    _, changed = of(config_only, size, f"experiment=paper-{size.lower()}", *advised)
    assert fit.fits(changed)
    if size == "7B":
        run, found = of(config_only, size, "experiment=paper-7b", "train.learning_rate=5e-5")
        assert fit.advice(run, found).startswith("It would fit with train.optimizer=adamw_8bit train.parameters=bfloat16 (about")


def test_a_change_that_needs_a_package_is_advised_with_the_command_that_installs_it(config_only, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run, found = of(config_only, "14B", "train=lora", device=replace(H100, total=24 * 2**30))
    with pytest.raises(
        UserError, match=r"^This run does not fit: .* It would fit with train=qlora .* needs the package bitsandbytes\. Install it"
    ):
        fit.refuse_too_large(run, found)


def test_a_batch_that_is_too_large_is_halved_before_anything_else_is_changed(config_only):
    run, found = of(config_only, "7B", "experiment=paper-7b-lora-1gpu", "train.gradient_checkpointing=false",
                    "train.tokens_per_batch=32768")  # fmt: skip
    assert found.peak[0] == "training" and not fit.fits(found)
    assert re.fullmatch(r"It would fit with train.tokens_per_batch=\d+ \(about [\d.]+ GiB\).", fit.advice(run, found))
    small = replace(H100, total=GB)
    run, found = of(config_only, "7B", "experiment=paper-7b-lora-1gpu", device=small)
    assert fit.advice(run, found).startswith("No setting of training or sampling makes it fit")


@pytest.mark.slow
def test_plan_true_prints_the_plan_of_a_model_without_weights_and_runs_nothing(config_only, tmp_path):
    done = command("plan=true", "model=pretrained", f"model.path={config_only / '0.5B'}", "train=lora",
                   f"store.dir={tmp_path}/store", f"hydra.run.dir={tmp_path}/run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Model: qwen2, 494.0 million weights, and ")
    assert [line.split()[0] for line in lines[3:7]] == ["stage", "sampling", "reference", "training"]
    assert "In the store: not looked up, because the model is not complete here." in lines
    assert not (tmp_path / "run").exists() and not (tmp_path / "store").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine").touch()
    again = command("plan=true", "model=pretrained", f"model.path={config_only / '0.5B'}", "train=lora",
                    f"store.dir={tmp_path}/store", f"hydra.run.dir={tmp_path}/run")  # fmt: skip
    assert (
        again.returncode == 0
        and len(again.stdout.splitlines()) == len(lines)
        and [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]
    )


@pytest.mark.slow
def test_a_finished_run_is_found_in_the_store_and_needs_no_memory_and_its_adapter_has_the_planned_size(cache, tmp_path):
    settings = [*SMALL, "iterations=1", f"model.cache_dir={cache}", f"store.dir={tmp_path}/store"]
    perform(tmp_path / "run", *settings)
    same, other = (build(compose(*settings, *more)) for more in ([], ["seed=1"]))
    stages, missing = plan.stages_of(same)
    assert missing is None and stages["train"] == 1 and stages["evaluate"] == 2
    stages, missing = plan.stages_of(other)
    assert missing == "examples" and "train" not in stages
    deployed = f"data.deployed.policy={tmp_path}/run/iteration_1/policy"
    assert plan.stages_of(build(compose(*settings, deployed)))[1] == "feedback"
    device = Device(kind="cpu", name="here", total=2**40, free=2**40, threads=1)
    found = plan.of_run(same, device)
    small = replace(device, total=1000, free=1000)
    plan.before(same, small)  # nothing is left to compute
    with pytest.raises(UserError, match="This run does not fit"):
        plan.before(other, small)
    file = tmp_path / "run/iteration_1/policy/adapter_model.safetensors"
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size - header == disk.policy_bytes(found.shape, found.setup)


def test_a_long_run_and_one_without_enough_free_memory_are_announced_in_a_line(config_only):
    _, found = of(config_only, "7B", "experiment=paper-7b-lora-1gpu")
    line = text.short(found)
    assert line.startswith("  Plan: ") and "guessed rates" in line and "at most" in line
    quick = replace(found, seconds={"training": 3600.0})
    assert text.short(quick) is not None
    quick = replace(quick, device=replace(H100, kind="cpu"))
    assert text.short(quick) is None, "the guess for a CPU is cautious"
    assert "measured on this machine" in text.short(replace(quick, rates=replace(found.rates, source="measured")))
    assert text.short(replace(quick, seconds={"training": 60.0}, rates=replace(found.rates, source="measured"))) is None
    tight = replace(quick, device=replace(H100, free=GIB))
    assert "of which only 1.00 are free now" in text.short(tight)


def test_measured_rates_hold_for_the_device_and_the_threads_that_they_were_measured_with(tmp_path):
    file, place = tmp_path / "calibration.json", {"device": "a CPU", "threads": "2"}
    assert rates.rates_for("float32", "cpu", place, file) == STATED["cpu"]
    own = replace(STATED["cpu"], forward=1.0, lora=2.0, source="measured")
    rates.keep("float32", own, place, file)
    rates.keep("bfloat16", replace(own, forward=7.0), place, file)
    assert rates.rates_for("float32", "cpu", place, file) == own
    assert rates.rates_for("bfloat16", "cpu", place, file).forward == 7.0
    assert rates.rates_for("float32", "cpu", place | {"threads": "1"}, file) == STATED["cpu"]
    for damaged in ("", "[]", '{"float32": 3}', '{"float32": {"rates": {"forward": 1}}}'):
        file.write_text(damaged)
        assert rates.rates_for("float32", "cpu", place, file) == STATED["cpu"]


def test_calibration_measures_every_rate():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 1, "vocab_size": 64, "tie_word_embeddings": True}  # fmt: skip
    found = calibrate.measure("cpu", "float32", sizes)
    assert found.source == "measured"
    assert all(0 < value < 1e15 for name, value in vars(found).items() if name != "source")


def test_the_memory_limit_of_a_container_is_read(tmp_path):
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "some").write_text("1073741824\n")
    assert allowed_bytes([tmp_path / "none", tmp_path / "max"]) is None
    assert allowed_bytes([tmp_path / "max", tmp_path / "some"]) == GIB


def test_a_judge_with_a_price_is_planned_up_to_its_cap(config_only):
    """100 examples of 2 samples in both orders: 200 questions, each of 448 + 2 x 64 + 500 tokens and 400 of the answer."""
    judge = ["method=iterdpo", "judge=llm", "method.judge.endpoint.url=http://127.0.0.1:1/v1", "method.judge.endpoint.model=m",
             "method.judge.endpoint.key_variable=null", "examples_per_iteration=100"]  # fmt: skip
    _, free = of(config_only, "0.5B", *judge)
    assert free.dollars is None
    priced = [*judge, "method.judge.endpoint.dollars_per_million_input=1", "method.judge.endpoint.dollars_per_million_output=2"]
    _, found = of(config_only, "0.5B", *priced)
    assert found.dollars == pytest.approx(200 * (448 + 128 + 500 + 2 * 400) / 1e6)
    _, capped = of(config_only, "0.5B", *priced, "method.judge.endpoint.max_dollars=0.25")
    assert capped.dollars == 0.25


def test_a_filter_compares_fresh_replies_with_the_disliked_one_and_a_miner_with_a_price_may_spend_its_cap(config_only):
    """Each of three fresh replies and the disliked one, in both orders."""
    server = ["endpoint.url=http://127.0.0.1:1/v1", "endpoint.model=m", "endpoint.key_variable=null"]
    priced = [*server, "endpoint.dollars_per_million_input=1", "endpoint.dollars_per_million_output=2"]
    judge = ["method.num_samples=3", "judge@filters.judge=llm", *(f"filters.judge.{setting}" for setting in priced)]
    _, found = of(config_only, "0.5B", "examples_per_iteration=100", *judge)
    assert found.dollars == pytest.approx(600 * (448 + 128 + 500 + 2 * 400) / 1e6)
    log = ["data=jsonl", f"data.path={ROOT}/experiments/miner/labels.jsonl", "mine=cascade"]
    run = build(plan.without_weights(compose(*log, *(f"mine.{setting}" for setting in priced), "mine.endpoint.max_dollars=3",
                                             "model=pretrained", f"model.path={config_only / '0.5B'}")))  # fmt: skip
    assert forecast(run, shape_of(qwen("0.5B")), H100, STATED["cuda"]).dollars == 3


@pytest.mark.parametrize(("settings", "replies", "drawn"), [
    (["method=drift"], 2, 100), (["method=drift", "method.num_samples=3"], 4, 300), (["method=iterdpo"], 2, 200),
    (["method=spin"], 2, 100), (["method=sft"], 1, 0), (["method=unpaired"], 1, 0),
])  # fmt: skip
def test_fresh_replies_and_those_of_an_example_are_the_methods_and_the_start_model_is_evaluated_too(
    config_only, settings, replies, drawn
):
    """A log of 240 conversations; every evaluation draws 2 replies to each of 10 prompts."""
    counts = ["examples_per_iteration=100", "evaluation.deployment.num_prompts=10", "evaluation.deployment.num_samples=2"]
    _, found = of(config_only, "0.5B", *settings, *counts)
    assert (found.work.replies, found.work.samples) == (replies, drawn + 240 + 20)
    more = replace(found.work, samples=found.work.samples + 20)
    first = work.seconds(found.shape, found.setup, more, STATED["cuda"], adapted=False)
    assert found.seconds == {name: first[name] for name in found.stages}


def test_a_device_at_hand_has_memory():
    found = device_at_hand()
    assert 0 < found.free <= found.total and found.name and json.dumps(found.place)


def test_no_plan_is_made_for_a_model_that_a_run_refuses(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match="gptq"):
        plan.Unloaded(path=str(tmp_path), revision=None, template={}).check()


def test_what_a_sampler_of_the_users_own_keeps_in_memory_is_not_guessed():
    run = build(compose("model=tiny"))
    assert plan.of_run(run, device_at_hand()) is not None
    assert plan.of_run(replace(run, sampler=object()), device_at_hand()) is None


def test_a_plan_asks_for_no_more_than_the_config_of_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for settings, told in (
        (["model=pretrained", f"model.path={tmp_path}"], "has no config.json. Expected a Hugging Face model directory"),
        (["model=qwen2.5-7b-instruct"], r"Fetch it first: hf download Qwen/Qwen2.5-7B-Instruct config\.json --revision a09a35458c"),
    ):
        with pytest.raises(UserError, match=told):
            build(plan.without_weights(compose(*settings)))


def test_a_start_model_with_an_adapter_is_planned_with_that_one(tiny, tmp_path):
    """Rank 64 on every layer: the numbers that are trained, and the layers that keep activations, are its own."""
    import torch

    start = policy_at(tiny)
    model = Lora(rank=64, scale=1.0, top_share=1.0, quantization="none").attach(load_model(start, torch.float32, trainable=True))
    save_policy(model, start, tmp_path / "policy")
    run = build(compose("model=pretrained", f"model.path={tmp_path}/policy", "train=lora", "train.adapter.top_share=0.5"))
    found = plan.of_run(run, Device(kind="cpu", name="here", total=2**40, free=2**40, threads=1))
    assert found.setup.adapted == found.shape.layers and found.setup.rank == 64
    assert memory.trained(found.shape, found.setup) == sum(p.numel() for p in model.parameters() if p.requires_grad)
