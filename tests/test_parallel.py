"""Two ranks train the policy of one, whatever the strategy: same examples, losses, weights; a checkpoint goes on anywhere."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import two_ranks
from conftest import ROOT, compose, write_model
from hydra.utils import instantiate
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from drift.batches import deal, slices
from drift.config import build
from drift.errors import UserError
from drift.job import unusual
from drift.model.policy import policy_at
from drift.records import read_jsonl
from drift.train import fit, parallel
from drift.train.fit import check_once

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent
PAIRS_PER_STEP = [5, 5, 3] * 2  # of the three steps of an epoch, which the second epoch may shuffle


def alone(folder, tiny, names):
    """The trainings as the only rank. `names`: folder -> (case, the folder whose checkpoint it resumes)."""
    with pytest.MonkeyPatch.context() as patch:
        two_ranks.exact(patch.setattr)
        try:
            for place, (name, resumed) in names.items():
                two_ranks.case(name, folder / place, tiny, resumed=resumed and folder / resumed)
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """The folder with all trainings: those of one rank, of two, and those that went on from the other's checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    alone(folder, tiny, {f"{name} alone": (name, None) for name in two_ranks.CASES})
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{TESTS}", "GLOO_SOCKET_IFNAME": "lo"}
    arguments = [sys.executable, str(TESTS / "two_ranks.py")]
    with open(folder / "log", "w") as log:
        started = [
            subprocess.Popen([*arguments, str(number), str(folder), str(tiny)], env=environment, stdout=log, stderr=log)
            for number in range(2)
        ]
        try:
            codes = [process.wait(240) for process in reversed(started)]
        finally:
            for process in started:
                process.kill()
    assert codes == [0, 0], (folder / "log").read_text()[-3000:]
    alone(folder, tiny, {"full resumed by one": ("full", "full fsdp")})
    return folder


OTHERS = {
    "lora": ["lora ddp", "lora fsdp"],
    "full": ["full ddp", "full fsdp", "full resumed by ddp", "full resumed by fsdp", "full resumed by one"],
}  # checkpointing and a point of reference (KTO) in "full", the kept outputs of frozen layers in "lora"


def weights_of(folder):
    (file,) = (folder / "output" / "policy").glob("*.safetensors")
    return load_file(file)


def norm(tensors):
    return float(sum(tensor.square().sum() for tensor in tensors.values())) ** 0.5


@pytest.mark.parametrize(("name", "place"), [(name, place) for name in OTHERS for place in OTHERS[name]])
def test_two_ranks_train_the_policy_of_one(name, place, trained):
    """To rounding in float64: all metrics of all steps, gradients and the signal's norms (in float32) among them, and the weights,
    whose difference is below 1e-12 of their norm and below 1e-9 of the way that training moved them."""
    one, other = trained / f"{name} alone", trained / place
    expected, found = weights_of(one), weights_of(other)
    assert list(found) == list(expected) and {tensor.dtype for tensor in found.values()} == {torch.float64}
    difference = norm({key: found[key] - expected[key] for key in expected})
    assert difference <= 1e-12 * norm(expected)
    steps = read_jsonl(one / "output" / "steps.jsonl"), read_jsonl(other / "output" / "steps.jsonl")
    for before, after in zip(*steps, strict=True):
        assert after == pytest.approx(before, rel=1e-6)
        assert {key: after[key] for key in after if key.startswith("loss")} == pytest.approx(
            {key: before[key] for key in before if key.startswith("loss")}, rel=1e-12
        )
    assert len(steps[0]) == 6 and sum("dpo_pair_norm" in step for step in steps[0]) == 3


@pytest.mark.parametrize("name", OTHERS)
def test_the_reference_pass_of_two_ranks_is_that_of_one_bit_for_bit(name, trained):
    one, two = (json.loads((trained / f"{name} {place}" / "found.json").read_text()) for place in ("alone", "ddp"))
    assert one["batches"] == [3, 4, 1] and two["reference"] == one["reference"]
    assert two["frozen"] == one["frozen"] and len(one["frozen"]) == (8 if name == "lora" else 0)


def test_a_training_that_resumes_does_the_steps_that_are_left(trained):
    heard = {place: json.loads((trained / place / "found.json").read_text())["heard"] for place in ["full alone", *OTHERS["full"]]}
    assert [heard.pop(place) for place in ("full alone", "full ddp", "full fsdp")] == [[1, 2, 3, 4, 5, 6]] * 3
    assert heard == {f"full resumed by {who}": [5, 6] for who in ("ddp", "fsdp", "one")}


def test_a_checkpoint_of_divided_weights_has_the_trained_numbers_of_a_single_device_once(trained):
    one, two = (torch.load(trained / f"lora {who}" / "key.progress" / "last.ckpt", weights_only=True) for who in ("alone", "fsdp"))
    assert list(two["state_dict"]) == list(one["state_dict"]) and all("lora_" in name for name in one["state_dict"])
    (before,), (after,) = one["optimizer_states"], two["optimizer_states"]
    assert [*before["state"]] == [*after["state"]] == before["param_groups"][0]["params"] == after["param_groups"][0]["params"]
    for number, moments in before["state"].items():
        for name, values in moments.items():
            torch.testing.assert_close(after["state"][number][name], values, rtol=1e-9, atol=1e-15)


class Held(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids).logits


def test_trained_weights_become_wide_only_when_they_are_divided(tokenizer, tmp_path, monkeypatch):
    """Otherwise every rank would hold all float32 weights in the host's memory before it keeps its share."""
    write_model("llama", tokenizer, tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    start, train = policy_at(tmp_path / "model"), instantiate(compose("train=full", "train.precision=float32").train)
    alone = fit.trainable(train, start)
    monkeypatch.setattr(parallel, "is_sharded", lambda strategy: True)
    module = Held(fit.trainable(train, start))
    assert {p.dtype for p in alone.parameters()} == {torch.float32} and {p.dtype for p in module.parameters()} == {torch.bfloat16}
    exact = write_model("llama", tokenizer, tmp_path / "exact")
    config = json.loads((exact / "config.json").read_text())
    (exact / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    wide = fit.trainable(train, policy_at(exact))
    assert {p.dtype for p in wide.parameters()} == {torch.float32}, "what the files hold counts, not what config.json says"
    with_adapter = fit.trainable(instantiate(compose("train=lora", "train.precision=float32").train), start)
    assert {p.dtype for p in with_adapter.parameters()} == {torch.float32}, "a new adapter begins the same in any number of ranks"
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        parallel.shard(module, mesh, dtype=torch.float32, offload=False)
        for (name, one), (_, other) in zip(alone.named_parameters(), module.model.named_parameters(), strict=True):
            assert other.to_local().dtype == torch.float32 and torch.equal(other.to_local(), one), name
        ids = torch.tensor([[5, 6, 7]])
        assert torch.equal(module(ids), alone(ids).logits)
    finally:
        torch.distributed.destroy_process_group()


def test_batches_are_dealt_so_that_counts_and_sizes_are_nearly_the_same():
    """Largest first, then in reverse: 9 | 8, then 5 to the second and 7 to the first, 1 to the first."""
    assert deal([5, 9, 8, 7, 1], 2) == [[0, 1, 4], [2, 3]]
    assert deal([3, 4], 3) == [[1], [0], []] and deal([2, 1, 3], 1) == [[0, 1, 2]] and deal([], 2) == [[], []]


def test_slices_keep_the_order_and_have_about_the_same_size():
    assert slices([1, 1, 1, 1], 2) == [range(0, 2), range(2, 4)] and slices([1, 1, 6], 2) == [range(0, 2), range(2, 3)]
    assert slices([5], 3) == [range(0, 0), range(0, 1), range(1, 1)] and slices([], 2) == [range(0, 0), range(0, 0)]
    assert slices([3, 2, 1], 1) == [range(0, 3)]


class OnlySteps:
    steps = [[[0, 1], [2]], [[3]]]


@pytest.mark.parametrize(
    ("given", "num_trained", "said"),
    [
        ({0: 1, 1: 1, 2: 2, 3: 1}, 5, "example 2 2 times instead of 1"),
        ({0: 1, 1: 1, 3: 1}, 3, "example 2 0 times instead of 1"),
        ({0: 1, 1: 1, 2: 1, 3: 1}, 3, "3 examples instead of 4"),
    ],
)
def test_an_example_that_is_left_out_or_trained_twice_ends_the_training(given, num_trained, said):
    check_once(OnlySteps, [0, 1], Counter({0: 1, 1: 1, 2: 1, 3: 1}), 4)
    with pytest.raises(RuntimeError, match=said):
        check_once(OnlySteps, [0, 1], Counter(given), num_trained)


def test_what_fsdp_cannot_divide_is_refused():
    whole = compose("train=qlora", "train.strategy=fsdp")
    instantiate(whole.train).check_devices(1)
    with pytest.raises(UserError, match="four bits"):
        instantiate(whole.train).check_devices(2)
    with pytest.raises(UserError, match="moments of adamw_8bit"):
        instantiate(compose("train=full", "train.optimizer=adamw_8bit", "train.strategy=fsdp").train).check_devices(2)
    with pytest.raises(UserError, match=r"cpu_offload=true is for train\.strategy=fsdp"):
        instantiate(compose("train=full", "train.cpu_offload=true").train).check_devices(2)


def test_offloading_on_one_device_does_nothing_and_a_run_says_so():
    offloaded = ["model=tiny", "train=full", "train.strategy=fsdp", "train.cpu_offload=true"]
    one, two = (unusual(build(compose(*offloaded, f"devices={devices}"))) for devices in (1, 2))
    assert any(note.startswith("train.cpu_offload=true does nothing on one device") for note in one) and not two
