"""Prefix-shared rows against their oracle, plain padded rows: log-probs, entropies, gradients; and what they must not compute."""

import subprocess
import sys
import threading

import pytest
import torch
from conftest import ROOT, float64_throughout

from drift.errors import UserError
from drift.model.policy import load_model, policy_at
from drift.score import attention, logprobs, padded, shared
from drift.score.sequence import TokenSequence
from drift.train.lora import Lora

PROMPT = list(range(3, 40))
ROWS = [  # several replies to one prompt, prompts that begin alike, a reply of one token, one that is longer than a tile
    TokenSequence(prompt=PROMPT, reply=[5, 6, 7, 8]),
    TokenSequence(prompt=PROMPT, reply=[9]),
    TokenSequence(prompt=PROMPT[:-1], reply=[5, 6, 7, 8]),
    TokenSequence(prompt=PROMPT, reply=[5, 6, 7, 9, 11, 12]),
    TokenSequence(prompt=[4], reply=[250 - i % 200 for i in range(300)]),
]


def gradients(layout, model, rows):
    """Log-probs, entropies, and the gradient of a weighted sum of the log-probs for every trained parameter."""
    sums, entropies, _ = layout.reply_logprobs(model, layout.collate(rows, 0))
    model.zero_grad()
    (sums * torch.linspace(-1, 2, len(sums), dtype=sums.dtype)).sum().backward()
    return sums.detach(), entropies, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def prepared(tiny, dtype, kind):
    model = load_model(policy_at(tiny), dtype)
    if kind == "lora":
        model = Lora(rank=4, scale=2.0, top_share=0.5, quantization="none").attach(model).to(dtype)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(std=0.1)
    if kind == "checkpointing":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    return float64_throughout(model) if dtype == torch.float64 else model


@pytest.mark.parametrize("kind", ["full", "lora", "checkpointing"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize(("tile", "chunk"), [(256, 2**23), (7, 1000)])  # small ones: many tiles and many chunks
def test_the_shared_layout_gives_the_numbers_of_the_padded_one(either, monkeypatch, kind, dtype, tolerance, tile, chunk):
    monkeypatch.setattr(attention, "TILE", tile)
    monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cpu", chunk)
    expected_sums, expected_entropies, expected = gradients(padded, prepared(either, dtype, kind), ROWS)
    sums, entropies, found = gradients(shared, prepared(either, dtype, kind), ROWS)

    assert found.keys() == expected.keys()
    for one, other in [(sums, expected_sums), (entropies, expected_entropies), *((found[n], expected[n]) for n in expected)]:
        assert float((one - other).norm() / other.norm()) <= tolerance


def test_the_block_mask_of_a_gpu_equals_the_tiles_of_a_cpu(either, monkeypatch):
    """FlexAttention in its plain form, float64; on a CPU torch has its forward pass only."""
    model, batch = prepared(either, torch.float64, "full"), shared.collate(ROWS, 0)
    with torch.no_grad():
        tiles, *_ = shared.reply_logprobs(model, batch)
        monkeypatch.setattr(attention, "FLEX_DEVICES", {"cpu"})
        blocks, *_ = shared.reply_logprobs(model, batch)
    assert float((blocks - tiles).norm() / tiles.norm()) <= 1e-9


def test_a_reply_does_not_attend_to_its_neighbours(either):
    """Another reply to the same prompt, and other prompts in the batch, change nothing (float64)."""
    model = prepared(either, torch.float64, "full")
    together, _, _ = gradients(shared, model, ROWS)
    for row, found in zip(ROWS, together, strict=True):
        alone, _, _ = gradients(shared, model, [row])
        assert alone.item() == pytest.approx(found.item(), rel=1e-12)


def test_a_prompt_is_computed_once_and_nothing_is_padding():
    """37 prompt tokens for the first, second and fourth row together, and no reply's last token: it predicts nothing."""
    batch = shared.collate(ROWS, 0)
    assert batch["input_ids"].shape == (1, 37 + 3 + 0 + 5 + 36 + 3 + 1 + 299)
    assert batch["reply_lengths"].tolist() == [4, 1, 4, 6, 300]
    assert batch["targets"].tolist() == [token for row in ROWS for token in row.reply]


def test_first_reply_token_is_predicted_by_the_last_prompt_token():
    batch = shared.collate(ROWS[:2], 0)
    ids, positions = batch["input_ids"][0], batch["position_ids"][0]
    first = [batch["predict"][0].item(), batch["predict"][4].item()]
    assert first == [36, 36] and ids[36] == PROMPT[-1] and positions[36] == 36
    assert positions[37:].tolist() == [37, 38, 39]


@pytest.mark.parametrize(("found", "include", "lacks"), [
    (None, "/usr/include", "a C compiler"), ("/usr/bin/gcc", "/nowhere", r"Python's headers \(/nowhere/Python\.h\)"),
])  # fmt: skip
def test_a_gpu_on_a_machine_without_a_compiler_is_refused_before_anything_runs(found, include, lacks, monkeypatch):
    attention.check_compiler()  # on a CPU nothing is compiled
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention.shutil, "which", lambda name: found)
    monkeypatch.setattr(attention.sysconfig, "get_path", lambda *name: include)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match=f"this machine lacks {lacks}. Install a .*, or use train.layout=padded"):
        attention.check_compiler()


def test_token_log_probs_by_hand():
    """Two classes with logits 0 and ln 3: probabilities 1/4 and 3/4, entropy ln 4 - 3/4 ln 3; d log p1 / d logit = (-3/4, 3/4)."""
    hidden = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[0.0], [3.0]], dtype=torch.float64).log().nan_to_num(neginf=0.0)
    logp, entropy = logprobs.token_logprobs(hidden, weight, torch.tensor([1]))
    assert logp.exp().item() == pytest.approx(0.75)
    assert entropy.item() == pytest.approx(1.3862943611198906 - 0.75 * 1.0986122886681098)
    logp.sum().backward()
    assert hidden.grad.item() == pytest.approx(1.0986122886681098 * 0.25)  # ln 3 * (1 - 3/4)


def test_every_thread_refuses_to_go_on_without_the_compiled_attention():
    """With gradient checkpointing on a GPU, a thread of autograd's computes a layer again, and has settings of its own."""
    config, found = torch._dynamo.config, []

    def settings():
        attention.flex("cuda")
        found.append((config.recompile_limit, config.fail_on_recompile_limit_hit))

    settings()
    (other := threading.Thread(target=settings)).start()
    other.join()
    assert found == [(64, True)] * 2


@pytest.mark.parametrize("trained", ["hidden", "weight", "both"])
def test_chunked_gradients_are_those_of_whole_logits(monkeypatch, trained):
    monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cpu", 3 * 50)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (10, 50))
    targets, scale = torch.arange(10) * 5, torch.linspace(-1, 1, 10, dtype=torch.float64)
    hidden.requires_grad_(trained != "weight")
    weight.requires_grad_(trained != "hidden")
    wanted = [tensor for tensor in (hidden, weight) if tensor.requires_grad]
    whole = torch.log_softmax(hidden @ weight.t(), dim=1).gather(1, targets[:, None]).squeeze(1)
    chunked, _ = logprobs.token_logprobs(hidden, weight, targets)
    assert torch.allclose(chunked, whole, rtol=1e-12)
    for one, other in zip(*(torch.autograd.grad((found * scale).sum(), wanted) for found in (chunked, whole)), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_chunk_of_logits_takes_no_memory_beside_its_buffers(monkeypatch, dtype):
    """All that is allocated, in bytes: two buffers of 4 x 5,000 float32 (and one in bfloat16), the head's gradient, and little
    else; a third float32 copy of a chunk would be 80,000 more."""
    monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cpu", 4 * 5000)
    hidden, weight = torch.randn(8, 2, dtype=dtype), torch.randn(5000, 2, dtype=dtype, requires_grad=True)
    buffers = 4 * 5000 * (4 + 4 + (2 if dtype == torch.bfloat16 else 0))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        logprobs.token_logprobs(hidden, weight, torch.arange(8))[0].sum().backward()
    made = sum(event.self_cpu_memory_usage for event in profile.events() if event.self_cpu_memory_usage > 0)
    assert 2 * buffers <= made < 2 * buffers + 60_000


PEAK = """
import resource, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from drift.score import shared
from drift.score.sequence import TokenSequence
config = LlamaConfig(vocab_size=int(sys.argv[1]), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(config)
rows = [TokenSequence(prompt=[1, 2, 3], reply=[5 + i] * 500) for i in range(4)]
for _ in range(2):
    sums, *_ = shared.reply_logprobs(model, shared.collate(rows, 0))
    sums.sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_a_larger_vocabulary_costs_its_weights_and_their_gradients_only():
    """50,000 -> 200,000 tokens of 16 float32 are 9.6 MB a copy: two matrices, their gradients, and a second pass's before they are
    added. Whole logits of 2,000 reply tokens would take 1.2 GB more, forward alone."""
    small, large = (
        float(subprocess.run([sys.executable, "-c", PEAK, size], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for size in ("50000", "200000")
    )
    assert large - small < 6 * 9.6 + 40  # and 40 MB: chunks don't come out equally long


def test_gradients_do_not_depend_on_how_threads_run(tiny):
    """Thirty replies to one prompt add up at its last position, on two threads: the same bits every time."""
    rows = [TokenSequence(prompt=PROMPT, reply=[3 + (7 * i + k) % 200 for k in range(40)]) for i in range(30)]
    model = prepared(tiny, torch.float32, "lora")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = [gradients(shared, model, rows)[2] for _ in range(8)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other[name], gradient) for other in found[1:] for name, gradient in found[0].items())


def test_the_gradient_of_a_trained_projection_is_the_same_in_pieces_of_any_size(monkeypatch):
    """Float32 weights under autocast: what is added up is rounded to bfloat16, a piece of the vocabulary at a time."""
    generator = torch.Generator().manual_seed(0)
    hidden, targets = torch.randn(9, 16, generator=generator).bfloat16(), torch.arange(9)
    found = []
    for rows in (10**9, 7, 50):
        monkeypatch.setitem(logprobs.ROWS, "cpu", rows)
        monkeypatch.setitem(logprobs.CHUNK_ELEMENTS, "cpu", 150)  # three tokens
        weight = torch.randn(50, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        logprobs.token_logprobs(hidden, weight, targets)[0].sum().backward()
        found.append(weight.grad)
    wide = torch.randn(50, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    torch.log_softmax(hidden.float() @ wide.T, 1).gather(1, targets[:, None]).sum().backward()
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=1e-6)
    assert float((found[0] - wide.grad).norm() / wide.grad.norm()) < 0.02
