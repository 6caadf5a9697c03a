"""What must also hold on a GPU: each test takes the device that is there, and compares with float64 on the CPU.

On a GPU: `python -m pytest -n 0 -m gpu`, or `experiments/gpu/check.py`, which measures speed too.
"""

import copy
import json
import math
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL, perform

from drift.sampler.decode import SampleRequest, sample
from drift.score import padded, shared
from drift.score.logprobs import token_logprobs
from drift.score.sequence import TokenSequence

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_model(head=16, spread=0.2):
    """A Qwen2 model of two layers, four heads to two of keys and values, in float64 on the CPU; `spread` of its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=300,
        hidden_size=4 * head,
        intermediate_size=8 * head,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=spread,
        eos_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).double().eval()


def batch_of(sizes):
    """Rows of (prompt, chosen, rejected) tokens, chosen replies first."""
    generator = torch.Generator().manual_seed(sum(map(sum, sizes)))
    prompt, chosen, rejected = (
        [torch.randint(1, 300, (size[side],), generator=generator).tolist() for size in sizes] for side in (0, 1, 2)
    )
    return [TokenSequence(prompt=p, reply=r) for replies in (chosen, rejected) for p, r in zip(prompt, replies, strict=True)]


def moved(batch, device):
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def sums_and_gradients(layout, model, rows):
    model.zero_grad()
    sums, *_ = layout.reply_logprobs(model, moved(layout.collate(rows, 0), next(model.parameters()).device))
    (sums * torch.linspace(-1, 2, len(sums), dtype=sums.dtype, device=sums.device)).sum().backward()
    return sums.detach().cpu().double(), torch.cat([p.grad.flatten().cpu().double() for p in model.parameters()])


def distance(one, other):
    return float((one - other).norm() / other.norm())


SIZES = [[(5, 3, 9)], [(130, 40, 1), (12, 70, 33)], [(7, 200, 180), (257, 5, 6), (31, 64, 90)]]  # several lengths: dynamic shapes


@pytest.mark.parametrize("head", [8, 64])
@pytest.mark.gpu
def test_the_shared_layout_equals_the_padded_one_in_float32(head):
    oracle = random_model(head)
    model = copy.deepcopy(oracle).float().to(DEVICE)
    for sizes in SIZES:
        rows = batch_of(sizes)
        for found, expected in zip(sums_and_gradients(shared, model, rows), sums_and_gradients(padded, oracle, rows), strict=True):
            assert distance(found, expected) < 5e-5


@pytest.mark.gpu
def test_the_shared_layout_is_as_exact_as_the_padded_one_in_bfloat16():
    oracle = random_model(64, spread=0.05)
    one, other = (copy.deepcopy(oracle).bfloat16().to(DEVICE) for _ in range(2))
    for sizes in SIZES:
        rows = batch_of(sizes)
        expected = sums_and_gradients(padded, oracle, rows)
        plain, packed = sums_and_gradients(padded, one, rows), sums_and_gradients(shared, other, rows)
        for mine, theirs, truth in zip(packed, plain, expected, strict=True):
            assert distance(mine, truth) < 1.5 * distance(theirs, truth) + 2e-3 < 0.1


@pytest.mark.gpu
def test_training_repeats_the_reference_pass_bit_for_bit():
    """Step 0 rests on it: the same rows with and without gradients, in bfloat16 and under autocast."""
    for dtype in (torch.bfloat16, torch.float32):
        model = copy.deepcopy(random_model(64)).to(dtype).to(DEVICE)
        batch = moved(shared.collate(batch_of(SIZES[2]), 0), DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=dtype == torch.float32):
            with torch.inference_mode():
                reference, *_ = shared.reply_logprobs(model, batch)
            sums, *_ = shared.reply_logprobs(model, batch)
        assert torch.equal(sums.detach(), reference)


@pytest.mark.gpu
def test_the_first_shape_that_a_process_compiles_for_has_the_bits_of_one_among_many():
    """A run that was killed between the reference pass and training compares the two: the first kernel is made for one shape, the
    next ones for any."""
    model = copy.deepcopy(random_model(64)).bfloat16().to(DEVICE)
    batches = [moved(shared.collate(batch_of(sizes), 0), DEVICE) for sizes in SIZES]
    found = []
    for order in ((2,), (0, 1, 2), (2, 0, 1, 2)):
        torch._dynamo.reset()  # as in a new process
        for number in order:
            with torch.inference_mode(len(found) == 0):
                sums, *_ = shared.reply_logprobs(model, batches[number])
            if number == 2:
                found.append(sums.detach().clone())
    assert len(found) == 4 and all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.gpu
def test_chunked_log_probs_equal_whole_logits(trained, monkeypatch):
    from drift.score import logprobs

    monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, DEVICE.type, 7 * 500)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 32, generator=generator, dtype=torch.float64) for n in (40, 500))
    targets, scale = torch.arange(40) * 12, torch.linspace(-1, 1, 40, dtype=torch.float64)

    def run(hidden, weight, function):
        hidden = hidden.clone().requires_grad_(True)
        weight = weight.clone().requires_grad_(trained)
        logp = function(hidden, weight)
        (logp * scale.to(logp.device, logp.dtype)).sum().backward()
        return logp.detach(), hidden.grad, *([weight.grad] if trained else [])

    whole = run(hidden, weight, lambda h, w: torch.log_softmax(h @ w.t(), 1).gather(1, targets[:, None]).squeeze(1))
    on_device = targets.to(DEVICE)
    chunked = run(hidden.float().to(DEVICE), weight.float().to(DEVICE), lambda h, w: token_logprobs(h, w, on_device)[0])
    for found, expected in zip(chunked, whole, strict=True):
        assert distance(found.cpu().double(), expected) < 1e-5


@pytest.mark.parametrize("banded", [False, True])
@pytest.mark.gpu
def test_greedy_decoding_equals_generate(banded):
    model = random_model().float().to(DEVICE)
    prompts = [[1, 2, 3, *range(10, 10 + 17 * i)] for i in range(1, 6)]
    rows = [SampleRequest(prompt=prompt, uniforms=[0.0] * 20) for prompt in prompts]
    found = sample(model, rows, max_new_tokens=20, temperature=0.0, top_p=1.0, stop_ids={0}, pad_id=0, banded=banded)
    for prompt, reply in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt], device=DEVICE)
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, pad_token_id=0)
        assert reply == expected[0, len(prompt) :].tolist()


@pytest.mark.gpu
def test_a_trainer_leaves_the_model_on_its_device():
    from drift.score.module import ReferenceModule
    from drift.score.trainer import make_trainer

    model = random_model().float().to(DEVICE)
    loader = torch.utils.data.DataLoader([shared.collate(batch_of(SIZES[1]), 0)], batch_size=None)
    make_trainer("32-true", enable_checkpointing=False).predict(ReferenceModule(model, shared, lambda count: None), loader)
    assert {parameter.device.type for parameter in model.parameters()} == {DEVICE.type}


@pytest.mark.gpu
def test_one_iteration_of_drift_on_the_tiny_model(cache, tmp_path):
    """Sampling, reference, training and evaluation; the first step's loss is ln 2, or the run stops."""
    state = perform(tmp_path / "run", *SMALL, "iterations=1", f"model.cache_dir={cache}", f"store.dir={tmp_path}/store")
    assert state["status"] == "finished" and len(state["points"]) == 2
    first = (tmp_path / "run/iteration_1/steps.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["dpo"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.slow
def test_the_measuring_script_runs_end_to_end_at_tiny_shapes(tmp_path):
    """All its parts but the tests above, and but vLLM, which is not installed here."""
    script = [sys.executable, ROOT / "experiments/gpu/check.py", "--tiny", "--output", tmp_path]
    subprocess.run(script, check=True, capture_output=True)
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert results[-1]["ended"] == "complete" and not any("failed" in row for row in results)
    kinds = {row["part"].partition("-")[0] for row in results[1:-1]}
    assert kinds == {"training", "qlora", "fsdp", "compile", "tokens", "checkpointing", "vllm", "sampling"}
    assert {row["first_margin"] for row in results if "first_margin" in row} == {0.0}
    assert sum("ratio" in row for row in results) == 1 + 1 + 1 + 2 + 2  # training, compile, checkpointing, fsdp, sampling
    assert (tmp_path / "results.md").read_text().count("\n") == len(results) + 2
