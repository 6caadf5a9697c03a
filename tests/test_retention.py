"""Which full policies a run keeps, what stays of the others, and what the disk must hold."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SMALL, compose, perform
from omegaconf import OmegaConf

from drift.config import build
from drift.errors import UserError
from drift.model.policy import policy_at
from drift.store import Store, retention, stage
from drift.store.inventory import take_stock
from drift.train import disk


@pytest.mark.parametrize(("scores", "keep", "gone"), [
    ([0.1, 0.2, 0.3, 0.4], 1, [0, 1, 2]),
    ([0.1, 0.9, 0.3, 0.4], 1, [0, 2]),  # the best stays
    ([0.1, 0.2, 0.3, 0.4], 2, [0, 1]),
    ([0.5, 0.5, 0.1, 0.1], 1, [0, 2]),  # of two equal ones the later
    ([float("nan"), None, 0.2, 0.1], 1, [0, 1]),
    ([0.1], 1, []), ([0.2, 0.1], 3, []),
])  # fmt: skip
def test_the_last_ones_and_the_best_are_kept(scores, keep, gone):
    names = [f"iteration {i}" for i in range(1, len(scores) + 1)]
    assert retention.to_remove(names, dict(zip(names, scores, strict=True)), keep) == [names[i] for i in gone]


def trained(store, number, users, *, adapter=False):
    """A stage like that of a training, with weights of 4 kB; returns its directory."""

    def work(progress, output):
        (output / "policy").mkdir()
        name = "adapter_model" if adapter else "model"
        (output / "policy" / f"{name}.safetensors").write_bytes(bytes([number]) * 4000)
        (output / "policy" / ("adapter_config.json" if adapter else "config.json")).write_text("{}")
        (output / "steps.jsonl").write_text("{}\n")
        return {}

    using = Store(dir=str(store), strict=False, verify=False, lease_seconds=60.0, keep_policies=1)
    using.users.extend(users)
    return using.run("train", work, version=1, settings={"number": number, "adapter": adapter}, inputs={}).path


def user_of(folder, store, settings="one"):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / ".owner").write_text(settings)
    return Store(dir=str(store), strict=False, verify=False, lease_seconds=60.0, keep_policies=1).used_by(folder)


def test_a_policy_without_weights_keeps_its_fingerprint_and_its_stage_is_found_unless_all_are_wanted(tmp_path):
    user = user_of(tmp_path / "runs/a", tmp_path / "store")
    first, last = (trained(tmp_path / "store", number, [user]) for number in (1, 2))
    before = policy_at(first / "policy").fingerprint
    policies = {"iteration 1": first, "iteration 2": last}
    assert retention.apply("all", user, policies, {}) == []
    for _ in range(2):
        assert retention.apply(1, user, policies, {"iteration 1": 0.1, "iteration 2": 0.2}) == ["iteration 1"]
    assert not (first / "policy/model.safetensors").exists() and (last / "policy/model.safetensors").stat().st_size == 4000
    assert policy_at(first / "policy").fingerprint == before != policy_at(last / "policy").fingerprint
    assert (first / "steps.jsonl").is_file() and take_stock(tmp_path / "store").removable == []
    assert [entry.kind for entry in take_stock(tmp_path / "store").entries] == ["stage", "stage"]
    for keep, hit in ((1, True), ("all", False), ("all", True)):
        store = Store(dir=str(tmp_path / "store"), strict=False, verify=False, lease_seconds=60.0, keep_policies=keep)
        again = store.run("train", recompute, version=1, settings={"number": 1, "adapter": False}, inputs={})
        assert again.hit == hit and again.path == first
    assert policy_at(first / "policy").fingerprint == before and len(list(first.parent.iterdir())) == 2


def recompute(progress, output):
    (output / "policy").mkdir()
    (output / "policy/model.safetensors").write_bytes(b"\x01" * 4000)
    (output / "policy/config.json").write_text("{}")
    return {}


def test_a_kill_between_the_note_and_the_removal_leaves_a_whole_policy_and_the_next_time_it_goes(tmp_path, monkeypatch):
    user = user_of(tmp_path / "runs/a", tmp_path / "store")
    first, last = (trained(tmp_path / "store", number, [user]) for number in (1, 2))
    before, policies = policy_at(first / "policy").fingerprint, {"1": first, "2": last}

    def killed(self, missing_ok=False):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            retention.apply(1, user, policies, {})
    (tmp_path / "store/runs/removal.lease").unlink(missing_ok=True)
    assert (first / "policy/model.safetensors").is_file() and policy_at(first / "policy").fingerprint == before
    everything = Store(dir=str(tmp_path / "store"), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
    assert everything.run("train", recompute, version=1, settings={"number": 1, "adapter": False}, inputs={}).hit
    assert retention.apply(1, user, policies, {}) == ["1"] and not (first / "policy/model.safetensors").exists()


@pytest.mark.parametrize(("settings", "ended", "stays"), [
    ("one", True, True),  # another run of these settings that came to its end: its report leads there
    ("one", False, False),  # an earlier attempt of this run, which this one goes on with
    ("another", False, True),  # another run, which may be resumed
    ("one", None, True),  # one that may be alive
])  # fmt: skip
def test_a_policy_that_another_run_needs_is_never_removed(tmp_path, settings, ended, stays):
    store = tmp_path / "store"
    theirs = user_of(tmp_path / "runs/theirs", store, settings)
    first = trained(store, 1, [theirs])
    if ended is not None:
        theirs.end(finished=ended)
    user = user_of(tmp_path / "runs/mine", store)
    last = trained(store, 2, [user])
    trained(store, 1, [user])
    removed = retention.apply(1, user, {"1": first, "2": last}, {})
    assert removed == ([] if stays else ["1"]) and (first / "policy/model.safetensors").exists() == stays


def test_adapters_always_stay(tmp_path):
    user = user_of(tmp_path / "runs/a", tmp_path / "store")
    policies = {str(number): trained(tmp_path / "store", number, [user], adapter=True) for number in (1, 2, 3)}
    assert retention.apply(1, user, policies, {}) == []
    assert all((path / "policy/adapter_model.safetensors").is_file() for path in policies.values())


@pytest.mark.slow
def test_a_run_that_keeps_one_policy_says_so_resumes_from_it_and_gets_the_others_back(tmp_path, cache, monkeypatch):
    from drift import evaluate

    small = ["refresh_log=false", "evaluation.deployment.num_samples=1", "evaluation.deployment.split=validation"]
    settings = [
        *(item for item in SMALL if "perplexity" not in item),
        "num_perplexity_prompts=0",
        *small,
        "train=full",
        f"model.cache_dir={cache}",
        f"store.dir={tmp_path}/store",
        "filters.truncated=keep",
    ]
    state = perform(tmp_path / "one", *settings, "store.keep_policies=1")
    assert state["removed"] == ["iteration 1"]
    policies = [tmp_path / f"one/iteration_{i}/policy" for i in (1, 2)]
    assert [(path / "model.safetensors").is_file() for path in policies] == [False, True]
    page = (tmp_path / "one/report.html").read_text()
    assert "the weights of these policies were removed: iteration 1." in page and "store.keep_policies=all" in page
    again = perform(tmp_path / "two", *settings, "store.keep_policies=1")
    assert all(one["hit"] for one in again["stages"]) and again["removed"] == ["iteration 1"]
    with pytest.raises(UserError, match="were removed to save disk. To get them back, .*store.keep_policies=all"):
        build(compose("model=pretrained", f"model.path={policies[0]}")).model.directory()
    (tmp_path / "one/config.yaml").write_text(OmegaConf.to_yaml(compose(*settings), resolve=True))
    run = build(compose())
    names = [one.name for one in evaluate.candidates_of(str(tmp_path / "one"), run, "all", several=False)]
    assert names == ["start", "iteration 2"]
    back = perform(tmp_path / "three", *settings)
    computed = {one["name"] for one in back["stages"] if not one["hit"]}
    assert computed == {"train"} and back["removed"] == [] and (policies[0] / "model.safetensors").is_file()


TINY = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32) + 32  # two layers: q, o; k, v; the MLP; norms; the last norm


def sizes_of(tiny, *overrides):
    run = build(compose("model=pretrained", f"model.path={tiny}", *overrides))
    return run, disk.sizes(run.train, policy_at(tiny))


def test_sizes_of_policies_and_checkpoints_are_those_of_the_weights(tiny, cache):
    """Full: every number in float32, with AdamW two more of each in a checkpoint. LoRA of rank 16 on the one upper layer of two: q
    and o have 32 + 32 rows and columns, k and v 32 + 16, the three of the MLP 32 + 64."""
    vocabulary = json.loads((tiny / "config.json").read_text())["vocab_size"]
    numbers = TINY + 32 * vocabulary
    for optimizer, held in (("adamw", 3), ("rmsprop", 2)):
        _, full = sizes_of(tiny, "train=full", f"train.optimizer={optimizer}")
        assert (full.policy, full.least, full.checkpoint) == (4 * numbers, 4 * numbers, 4 * numbers * held)
    for changed, held in (({"parameters": "float32"}, 4 + 2), ({"parameters": "bfloat16"}, 2 + 2)):  # two moments of a byte each
        train = replace(sizes_of(tiny, "train=full")[0].train, optimizer="adamw_8bit", precision="bfloat16", **changed)
        assert disk.sizes(train, policy_at(tiny)).checkpoint == held * numbers
    assert 0 < (tiny / "model.safetensors").stat().st_size - 4 * numbers < 3000  # its header
    run, lora = sizes_of(tiny, "train.adapter.rank=16", "train.adapter.top_share=0.5", "train.optimizer=adamw")
    expected = 4 * 16 * (2 * 64 + 2 * 48 + 3 * 96)
    assert (lora.policy, lora.checkpoint) == (expected, 3 * expected)


def test_outputs_of_frozen_layers_are_bounded_by_the_longest_examples_and_by_their_setting(tiny):
    """10 examples of two replies with 100 tokens each, 32 numbers a token in float32; or a limit of 100,000 bytes; or no cache."""
    settings = ["examples_per_iteration=10", "train.max_tokens=100", "sampler.max_new_tokens=10", "train.precision=float32"]
    settings.append("train.adapter.top_share=0.5")
    for further, expected in (
        ("train.frozen_cache_gib=1", 10 * 2 * 100 * 32 * 4),
        (f"train.frozen_cache_gib={100_000 / 2**30}", 100_000),
        ("train.adapter.top_share=1", 0),
    ):
        run, _ = sizes_of(tiny, *settings, further)
        assert round(disk.frozen_bytes(run, policy_at(tiny))) == expected


@pytest.fixture
def room(monkeypatch):
    """`room(bytes)`: that much is free on the disk."""
    return lambda free: [monkeypatch.setattr(place, "free_bytes", lambda folder: free) for place in (disk, stage)]


def test_a_run_whose_policies_cannot_fit_is_refused_and_one_that_may_not_fit_is_warned(tiny, tmp_path, room, capsys):
    """Three policies of 4n bytes; with checkpoints of 12n, two of them at a time, it may be 3 * 4n + 24n = 36n."""
    settings = ["train=full", "iterations=3", f"store.dir={tmp_path}/store", "train.optimizer=adamw"]
    run, one = sizes_of(tiny, *settings)
    start = policy_at(tiny)
    room(3 * one.policy - 1)
    with pytest.raises(UserError, match="This run writes 3 policies of .*store.keep_policies=1.*drift store"):
        disk.check_run(run, start)
    room(3 * one.policy)
    disk.check_run(run, start)
    assert "Note: this run may need up to " in capsys.readouterr().out
    room(9 * one.policy - 1)
    disk.check_run(run, start)
    assert f"Note: this run may need up to {disk.in_bytes(9 * one.policy)} in " in capsys.readouterr().out
    room(9 * one.policy)
    disk.check_run(run, start)
    assert capsys.readouterr().out == ""
    fewer, _ = sizes_of(tiny, *settings, "store.keep_policies=1")
    room(one.policy)
    disk.check_run(fewer, start)  # one of them must fit
    (tmp_path / "store/train/key").mkdir(parents=True)
    (tmp_path / "store/train/key/manifest.json").write_text("{}")
    room(0)
    disk.check_run(run, start)  # all of them may be in the store
    assert capsys.readouterr().out.count("Note: ") == 2


def test_a_training_that_cannot_fit_does_not_begin(tiny, tmp_path, room):
    """Policy p, checkpoint 3p: with two checkpoints at a time it needs 6p, with one of them there 3p, with one 4p, without 1p."""
    run, one = sizes_of(tiny, "train=full", "train.checkpoint_every_steps=5", "train.optimizer=adamw")
    for num_steps, resumed, need in ((10, False, 6), (10, True, 3), (9, False, 4), (4, False, 1)):
        room(need * one.policy)
        disk.check_training(tmp_path, run.train, policy_at(tiny), num_steps=num_steps, resumed=resumed)
        room(need * one.policy - 1)
        with pytest.raises(UserError, match=r"Training needs .*the same command goes on\."):
            disk.check_training(tmp_path, run.train, policy_at(tiny), num_steps=num_steps, resumed=resumed)


def test_a_nearly_full_disk_is_said_before_it_is_full_and_once(tmp_path, room, capsys):
    stage.warn_once.cache_clear()
    room(200_000_000)
    user = user_of(tmp_path / "runs/a", tmp_path / "store")
    for number in (1, 2):
        trained(tmp_path / "store", number, [user])
    assert capsys.readouterr().out.count("Note: only 200.0 MB are left on the disk of") == 1


def test_no_keeping_of_nothing():
    with pytest.raises(UserError, match="store.keep_policies=0: expected all, or at least 1"):
        build(compose("store.keep_policies=0"))


def test_the_checkpoint_of_a_policy_that_is_trained_again_stays_its_own(tmp_path):
    """Its stage is there without weights. A kill keeps the checkpoint, also from other processes and from `drift store`."""
    user = user_of(tmp_path / "runs/a", tmp_path / "store")
    first = trained(tmp_path / "store", 1, [user])
    trained(tmp_path / "store", 2, [user])
    retention.remove_weights(user, {"iteration 1": first})
    whole = {path for path in first.rglob("*") if path.is_file()}
    every = Store(dir=str(tmp_path / "store"), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
    settings = {"number": 1, "adapter": False}
    every.used_by(tmp_path / "runs/a")

    def killed(progress, output):
        (progress / "last.ckpt").write_text("step 400")
        stage.tidy.cache_clear()  # as in another process
        trained(tmp_path / "store", 3, [])
        assert progress.is_dir() and output.is_dir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        every.run("train", killed, version=1, settings=settings, inputs={})
    assert [entry.kind for entry in take_stock(tmp_path / "store").removable if entry.stage == f"train/{first.name}"] == []
    stage.tidy.cache_clear()
    seen = []

    def again(progress, output):
        seen.append((progress / "last.ckpt").read_text())
        (output / "policy").mkdir()
        (output / "policy/model.safetensors").write_bytes(bytes([1]) * 4000)
        return {}

    every.run("train", again, version=1, settings=settings, inputs={})
    assert seen == ["step 400"] and {path for path in first.rglob("*") if path.is_file()} != whole
    assert not list(first.parent.glob(f"{first.name}.*"))
