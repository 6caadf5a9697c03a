"""`train.tokens_per_batch=auto`: what the planner says by hand, what is tried, and that a number is found once."""

import math
import weakref
from dataclasses import dataclass, field, replace

import pytest
import torch
from conftest import compose
from test_plan_shape import qwen

from drift.config import build
from drift.errors import UserError, memory_advice
from drift.model.policy import policy_at
from drift.plan import command as plan
from drift.plan import fit, memory
from drift.plan.device import Device
from drift.plan.forecast import most_tokens, setup_of, sized
from drift.plan.memory import Batch
from drift.plan.shape import shape_of
from drift.score import padded, shared
from drift.store import Store
from drift.train import batch_size
from drift.train.batch_size import Trials, batch_of, largest_that_fits, numbered, out_of_memory
from drift.train.fit import trainable

GIB = 2**30


def train_of(*settings):
    return build(compose("model=tiny", "train.tokens_per_batch=auto", *settings)).train


def gpu(free):
    return Device(kind="cuda", name="a GPU", total=80 * GIB, free=free, threads=8)


def test_the_planners_number_is_the_largest_that_leaves_room():
    """At 7B, LoRA on every layer: the next larger batch would need more than 85 % of what is free."""
    train, shape = train_of("train.adapter.top_share=1", "train.precision=bfloat16", "train.max_tokens=2048"), shape_of(qwen("7B"))
    found = most_tokens(train, shape, gpu(70 * GIB), 1)
    setup = setup_of(train, shape, "cuda", None, 1)

    def peak(tokens):
        return memory.total(memory.training(shape, setup, Batch(tokens=tokens, predicted=tokens, longest=2048, several=True)))

    assert found % 1024 == 0 and 2048 < found < 16384
    assert peak(found) <= 0.85 * 70 * GIB < peak(found + 1024)


def test_the_number_has_a_most_and_a_least_and_one_that_is_given_stays():
    train, shape = train_of("train.precision=bfloat16"), shape_of(qwen("7B"))
    assert most_tokens(train, shape, gpu(10_000 * GIB), 1) == 16384
    assert most_tokens(train, shape, gpu(GIB), 1) == 1024
    assert sized(replace(train, tokens_per_batch=500), shape, gpu(GIB), 1).tokens_per_batch == 500


def test_a_plan_uses_the_number_and_its_advice_is_never_to_halve_it():
    run = build(compose("model=tiny", "train.tokens_per_batch=auto"))
    cpu = Device(kind="cpu", name="here", total=2**40, free=2**40, threads=1)
    found = plan.of_run(run, cpu)
    assert found.tokens_per_batch == 8192
    settings = [list(names) for names, _ in fit.changes(run)]
    assert settings and not any("train.tokens_per_batch" in names for names in settings)


@dataclass
class Measured:
    """Peaks as a device would show them: `each` bytes a token, out of memory above `most` tokens."""

    each: float
    most: int
    limit: float
    tried: list[int] = field(default_factory=list)

    def __call__(self, tokens):
        self.tried.append(tokens)
        return self.each * tokens if tokens <= self.most else math.inf


def test_on_a_gpu_a_size_that_runs_out_of_memory_or_leaves_no_room_is_halved(capsys):
    enough = Measured(each=1.0, most=10**6, limit=8000.0)
    assert largest_that_fits(7168, enough) == 7168 and enough.tried == [7168]
    tight = Measured(each=1.0, most=10_000, limit=4000.0)
    assert largest_that_fits(12288, tight) == 3072 and tight.tried == [12288, 6144, 3072]
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert ["out of memory" in line for line in lines] == [True, False, False] and lines[0].startswith("  Batches of 12,288 tokens")
    with pytest.raises(UserError, match="batches of 1,024 tokens do not fit. The command with plan=true says"):
        largest_that_fits(4096, Measured(each=1.0, most=1000, limit=8000.0))


def test_running_out_of_memory_is_recognised_under_the_advice_that_a_run_gives_and_nothing_else_is():
    with pytest.raises(UserError) as told, memory_advice("train.tokens_per_batch", 4096):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert out_of_memory(told.value) and out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not out_of_memory(RuntimeError("shape mismatch")) and not out_of_memory(None)


@pytest.mark.parametrize("settings", [["train.layout=shared"], ["train=full", "train.optimizer=adamw_8bit", "train.layout=padded"]])
def test_a_trial_trains_two_steps_of_two_batches_with_the_programs_own_code(tiny, settings):
    train = train_of("train.precision=float32", "train.max_tokens=100", *settings)
    model = trainable(replace(train, tokens_per_batch=300), policy_at(tiny))
    trials, seen = Trials(train, model, limit=math.nan), []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    assert math.isnan(trials(300)), "on a CPU the peak is not measured"
    assert seen == [torch.Size([1, 297]) if train.layout == "shared" else torch.Size([3, 100])] * 4
    trained = [p for p in model.parameters() if p.requires_grad]
    assert any(not torch.equal(p, old) for p, old in zip(trained, before, strict=True))
    assert all(p.grad is None for p in trained)


@pytest.mark.parametrize(("layout", "module", "computed"), [("shared", shared, 2048 + 996 - 3), ("padded", padded, 2048)])
def test_the_batch_of_a_trial_has_the_longest_sequences_and_few_prompt_tokens(layout, module, computed):
    train = replace(train_of("train.max_tokens=1024"), layout=layout, tokens_per_batch=3044)
    batch = batch_of(train, 50)
    assert batch["input_ids"].numel() == computed and int(batch["input_ids"].max()) < 50
    lengths = batch["reply_lengths"].tolist()
    assert lengths == ([1016, 1016, 988] if layout == "shared" else [1016, 1016]) and len(batch["good"]) == len(lengths)
    short = batch_of(replace(train, tokens_per_batch=700), 50)
    assert short["reply_lengths"].tolist() == [692]


def test_a_number_is_found_once_for_a_device_and_kept_whatever_is_free_later(tiny, tmp_path, monkeypatch, capsys):
    """16 GiB free, and later almost nothing; another device finds its own."""
    start, train = policy_at(tiny), train_of("train.precision=float32")

    def at(free, name="here"):
        device = Device(kind="cpu", name=name, total=32 * GIB, free=free, threads=1)
        monkeypatch.setattr(batch_size, "device_at_hand", lambda: device)
        store = Store(dir=str(tmp_path), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
        return numbered(train, start, store).tokens_per_batch, store.log[-1].hit

    assert at(16 * GIB) == (8192, False)
    assert at(2**20) == (8192, True)
    assert "is 8,192 tokens (found earlier)" in capsys.readouterr().out
    assert at(2**20, "elsewhere") == (1024, False)


def test_the_model_of_the_trials_is_gone_when_memory_is_released(tiny, monkeypatch):
    """Otherwise the first sampling engine on that GPU finds too little of it free."""
    models, alive = [], []

    def remembered(*arguments):
        model = trainable(*arguments)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr("drift.train.fit.trainable", remembered)
    monkeypatch.setattr(Trials, "__call__", lambda self, tokens: float(next(self.model.parameters()).numel() == 0))
    monkeypatch.setattr("drift.model.policy.free", lambda: alive.append(models[-1]() is not None))
    assert batch_size.find(train_of("train.precision=float32"), policy_at(tiny), gpu(40 * GIB)) > 0
    assert alive == [False]


def test_on_a_cpu_a_model_of_unknown_type_needs_a_number(tokenizer, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=len(tokenizer))).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    device = Device(kind="cpu", name="here", total=GIB, free=GIB, threads=1)
    with pytest.raises(UserError, match="Give a number: train.tokens_per_batch=2048"):
        batch_size.find(train_of(), policy_at(tmp_path), device)
