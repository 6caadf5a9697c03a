"""What saves memory beside the adapter: four-bit weights under it, one-byte moments, bfloat16 parameters."""

import json
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, compose, perform
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from drift.config import build
from drift.errors import UserError
from drift.job import unusual
from drift.model.chat import prompt_ids
from drift.model.policy import load_model, policy_at, save_policy
from drift.model.precision import LEAST_BFLOAT16_RATE, resolve
from drift.score import padded
from drift.score.reference import sequence_logprobs
from drift.score.sequence import Compute, TokenSequence
from drift.train.lora import Lora
from drift.train.modules import PolicyModule
from drift.train.optimizer import adamw_8bit

COMPUTE = Compute(lightning="32-true", dtype="float32", layout="shared", tokens_per_batch=100, max_tokens=100)


def test_weights_below_an_adapter_have_four_bits_wherever_the_policy_is_loaded(tiny, tokenizer, tmp_path):
    """Disturbed, saved, and loaded again as the sampler does: the same log-probs, which are not those of full weights."""
    from bitsandbytes.nn import Linear4bit

    start = policy_at(tiny, "nf4")
    model = Lora(rank=4, scale=2.0, top_share=1.0, quantization="nf4").attach(load_model(start, torch.float32))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.05
    save_policy(model, start, tmp_path)
    policy = policy_at(tmp_path)
    assert policy.quantization == "nf4" and policy.base == start.directory
    again = load_model(policy, torch.float32, merge=True)
    full = load_model(policy_at(tiny), torch.float32)
    linear = [part for name, part in again.named_modules() if name.endswith(("base_layer", "_proj")) and hasattr(part, "weight")]
    assert linear and all(isinstance(getattr(part, "base_layer", part), Linear4bit) for part in linear)
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": "Why?"}])
    batch = padded.collate(
        [TokenSequence(prompt=prompt, reply=prompt[:9]), TokenSequence(prompt=prompt[:20], reply=prompt[3:8])], 0
    )
    with torch.no_grad():
        saved, loaded, other = (padded.reply_logprobs(m.eval(), batch)[0] for m in (model, again, full))
    assert torch.equal(saved, loaded) and (saved - other).abs().min() > 1e-3


def test_a_quantised_start_is_another_policy(tiny):
    assert policy_at(tiny, "nf4").fingerprint != policy_at(tiny).fingerprint


@pytest.mark.slow
def test_qlora_runs_two_iterations(cache, tmp_path):
    """The step-0 check of both says that sampling's policy, reference and training's start are one model."""
    state = perform(tmp_path / "run", *SMALL, f"model.cache_dir={cache}", f"store.dir={tmp_path}/store", "train=qlora",
                    "train.layout=shared", "iterations=2", "train.examples_per_step=2")  # fmt: skip
    assert state["status"] == "finished"
    for iteration in (1, 2):
        base = json.loads((tmp_path / f"run/iteration_{iteration}/policy/base.json").read_text())
        assert base["quantization"] == "nf4"
    first, second = (policy_at(tmp_path / f"run/iteration_{i}/policy") for i in (1, 2))
    assert first.base == second.base and first.fingerprint != second.fingerprint


def test_adamw_8bit_is_nearly_adamw_and_keeps_its_moments_in_bytes():
    generator = torch.Generator().manual_seed(0)
    start, target = torch.randn(64, 128, generator=generator), torch.randn(64, 128, generator=generator)
    ends = []
    for make in (adamw_8bit, lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)):
        weight = torch.nn.Parameter(start.clone())
        optimizer = make([weight], 0.01)
        for _ in range(20):
            optimizer.zero_grad()
            (weight - target).square().sum().backward()
            optimizer.step()
        ends.append(weight.detach() - start)
        if make is adamw_8bit:
            assert {state["state1"].dtype for state in optimizer.state.values()} == {torch.uint8}
    assert torch.nn.functional.cosine_similarity(*(end.flatten() for end in ends), dim=0) > 0.999
    assert not torch.equal(*ends)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "rmsprop"])
def test_full_fine_tuning_with_bfloat16_parameters(cache, tmp_path, optimizer):
    settings = ["train=full", "train.precision=bfloat16", "train.parameters=bfloat16", f"train.optimizer={optimizer}"]
    more = ["train.learning_rate=1e-2", "iterations=1", "train.examples_per_step=2", "train.tokens_per_batch=500"]
    perform(tmp_path / "run", *SMALL, f"model.cache_dir={cache}", f"store.dir={tmp_path}/store", *settings, *more)
    weights = load_file(tmp_path / "run/iteration_1/policy/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_weights_that_do_not_fit_are_not_said_to_be_the_fault_of_a_batch(tiny, monkeypatch):
    from transformers import AutoModelForCausalLM

    def full(*given, **how):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 28.00 GiB.")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(UserError, match=r"^Out of memory while a model was loaded\. The same command with plan=true says"):
        sequence_logprobs(COMPUTE, policy_at(tiny), [TokenSequence(prompt=[1], reply=[2])], "log-probs")


@pytest.mark.parametrize(("major", "expected"), [(7, "float32"), (8, "bfloat16")])  # T4 and V100; A100
def test_a_gpu_without_native_bfloat16_computes_in_float32_by_default(major, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
    assert resolve("auto") == expected and resolve("bfloat16") == "bfloat16"


@pytest.mark.parametrize(("rate", "least", "most"), [(5e-7, 0.0, 0.2), (LEAST_BFLOAT16_RATE, 0.9, 1.0)])
def test_a_low_rate_hardly_moves_bfloat16_weights_and_a_run_says_so(rate, least, most):
    """Thirty steps of RMSprop that all go the same way, on weights of a usual size: the share of float32's way."""
    generator = torch.Generator().manual_seed(0)
    start, slope = (0.02 * torch.randn(100_000, generator=generator)).bfloat16(), torch.randn(100_000, generator=generator)
    ways = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(start.to(dtype, copy=True))
        optimizer = torch.optim.RMSprop([weight], lr=rate)
        for _ in range(30):
            weight.grad = slope.to(dtype)
            optimizer.step()
        ways.append(float((weight.detach().float() - start.float()).norm()))
    assert least < ways[1] / ways[0] < most + 0.05
    settings = ["train=full", "train.precision=bfloat16", f"train.learning_rate={rate}"]
    narrow, wide = (unusual(build(compose("model=tiny", *settings, *more))) for more in (["train.parameters=bfloat16"], []))
    assert any("rounded away" in note for note in narrow) == (rate < LEAST_BFLOAT16_RATE) and not wide


class Rounded(TorchDispatchMode):
    """Weak references to the bfloat16 copies of weights of some shape that are made inside."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.made = shape, []

    def __torch_dispatch__(self, function, types, given=(), how=None):
        result = function(*given, **(how or {}))
        if "_to_copy" in str(function) and result.dtype == torch.bfloat16 and result.shape == self.shape:
            self.made.append(weakref.ref(result))
        return result


@pytest.mark.parametrize(("checkpointing", "kept"), [(False, 2), (True, 0)])
def test_rounded_weights_are_kept_for_the_backward_pass_only_without_checkpointing(checkpointing, kept, tiny):
    """Of a matrix of each of two layers, after a forward pass under autocast."""
    train = build(compose("model=tiny", "train=full", f"train.gradient_checkpointing={checkpointing}")).train
    model = load_model(policy_at(tiny), torch.float32, trainable=True)
    module = PolicyModule(model, train, {}, padded, num_steps=1, check_start=False, on_step=None)
    batch = padded.collate([TokenSequence(prompt=[1, 2], reply=[3, 4])], 0)
    with torch.autocast("cpu", torch.bfloat16), Rounded(model.base_model.layers[0].mlp.up_proj.weight.shape) as rounded:
        found = module(batch)
        alive = sum(weight() is not None for weight in rounded.made)
    assert alive == 2 * kept and len(rounded.made) >= 4 and found[0].requires_grad  # gate and up have the same shape


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.parameters=bfloat16", "train.precision=bfloat16"], "an adapter is small"),
        (["train=full", "train.parameters=bfloat16", "train.precision=float32"], "train.precision=float32 needs float32 weights"),
    ],
)
def test_bfloat16_parameters_are_refused_with_an_adapter_or_in_float32(overrides, words):
    with pytest.raises(UserError, match=words):
        build(compose("model=tiny", *overrides))


@pytest.mark.parametrize("setting", ["train.adapter.quantization=nf4", "train.optimizer=adamw_8bit"])
def test_a_missing_bitsandbytes_is_named_with_its_remedy(setting, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=rf"{setting} needs the package bitsandbytes.*'drift\[bitsandbytes\]'"):
        build(compose("model=tiny", setting))
