"""Shared by all tests: the tiny model, composed configs, runs in this process and through the real command line."""

import functools
import gc
import os
import re
import subprocess
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing from more, and threads that wait for one another cost a lot

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "model=tiny",
    "iterations=2",
    "data.num_prompts=12",
    "examples_per_iteration=6",
    "train.examples_per_step=2",
    "train.tokens_per_batch=500",
    "evaluation.deployment.num_prompts=6",
    "num_perplexity_prompts=2",
    "sampler.group_size=8",
    "sampler.max_new_tokens=10",
]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One model cache for the whole session."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny(cache):
    """Directory of the tiny model."""
    from drift.model.tiny import Tiny

    found = Tiny(layers=2, hidden_size=32, weights_seed=0, cache_dir=cache, template={}).directory()
    freeze_imports("of a model")
    return found


@pytest.fixture(scope="session")
def qwen2(tokenizer, tmp_path_factory):
    """Directory of a tiny Qwen2 model with the tiny model's tokenizer."""
    return write_model("qwen2", tokenizer, tmp_path_factory.mktemp("models") / "qwen2")


@pytest.fixture(params=["tiny", "qwen2"])
def either(request):
    """The directories of both kinds of model that shared rows and banded decoding are for, one after the other."""
    return request.getfixturevalue(request.param)


def write_model(kind, tokenizer, output, spoken=None):
    """A tiny model of random weights in a directory. Qwen2's biases are not zero, as new ones are, and its head is its own. It says
    the first `spoken` tokens only (None: all)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    own, causal = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[kind]
    end = tokenizer.eos_token_id
    config = own(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.2, tie_word_embeddings=kind == "llama",
        eos_token_id=end, pad_token_id=end, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = causal(config)
        for name, parameter in model.named_parameters():
            if name.endswith("proj.bias"):
                torch.nn.init.normal_(parameter, std=0.5)
    if spoken is not None:
        silence(model, spoken)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return output


@pytest.fixture(scope="session")
def tokenizer(tiny):
    from drift.model.policy import load_tokenizer, policy_at

    return load_tokenizer(policy_at(tiny))


def float64_throughout(model):
    """The model in float64, with norms that keep it: those of transformers round to float32 on the way (6e-8, which hides what
    a comparison at 1e-9 looks for). Weights and function are otherwise the same."""
    import torch

    model = model.double()
    for path, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            norm = torch.nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon, dtype=torch.float64)
            norm.weight = module.weight
            model.set_submodule(path, norm)
    return model


def compose(*overrides):
    """The composed config of these overrides."""
    from drift.compose import compose as composed

    return composed(overrides)


def perform(folder, *overrides):
    """A whole run in this process; returns its run.json."""
    import json

    from drift.config import build
    from drift.journal import Journal
    from drift.loop import execute
    from drift.report import html

    run = build(compose(*overrides))
    folder.mkdir(parents=True, exist_ok=True)
    title = {"method": type(run.method).__name__.lower(), "seed": str(run.seed)}
    journal = Journal(folder, title, {}, run.store, run.logger, run.alarms)
    execute(run, journal)
    freeze_imports("of a run")
    journal.finish(None)
    html.run_report(folder)
    return json.loads((folder / "run.json").read_text())


def silence(model, spoken):
    """Tokens from that number on get no probability: the first hidden number is one that no layer changes, and their logits fall
    with it by more than a hundred."""
    import torch

    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0
        model.get_input_embeddings().weight[:, 0] = 4
        model.get_output_embeddings().weight[spoken:, 0] = -30


@functools.cache
def freeze_imports(which):
    """Once for each kind, after the imports: no later garbage collection looks at what they left. Every stage ends with one, which
    would be two thirds of a tiny run's time."""
    gc.collect()
    gc.freeze()


def command(*arguments, cwd=ROOT, under=(), **environment):
    """`python run.py ...` as a user would (`under`: through another command); returns the process with its output as text."""
    return subprocess.run(
        [*under, sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


OURS = re.compile(
    r"|  .*|(Note|Feedback|start|warm start|iteration \d+|W&B|Verdict|Cost|Next|Numbers|Report): .*"
    r"|(method|Sweep of|Stopped by|The method made|\d+ of \d+ members) .*"
)


def foreign(printed):
    """The lines that no message of ours looks like: what libraries say about themselves belongs into libraries.log."""
    return [line for line in printed.splitlines() if not OURS.fullmatch(line)]


def feedback_file(path, *, dsat=10, sat=8):
    """A small log in the official DRIFT format."""
    import json

    rows = []
    for i in range(dsat):
        prompt = [{"role": "user", "content": f"Question {i}?"}]
        rows.append({
            "prompt": prompt,
            "rejected": [{"role": "assistant", "content": f"A bad answer, number {i}."}],
            "user_preference": {"content": "No, that is wrong."},
        })  # fmt: skip
    for i in range(sat):
        prompt = [{"role": "user", "content": f"Wish {i}?"}]
        rows.append({"prompt": prompt, "chosen": [{"role": "assistant", "content": f"Good answer {i}."}]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@functools.cache
def defaults(file):
    """A yaml of conf/ as plain values."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / file))


def collected(path, rows=None, *, source="messages", miner=None, intake=(), **settings):
    """What the intake makes of a log, set as conf/ says; `rows` are written to `path` first, one a line."""
    import json

    from drift.mine.rules import Rules

    if rows is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = made(defaults(f"data/{source}.yaml")["data"], path=str(path), **settings)
    log.check()
    return made(defaults("config.yaml")["intake"], **dict(intake)).collect(log, miner or Rules())


def made(values, **changed):
    """The object of a `_target_` node."""
    import importlib

    module, _, name = values["_target_"].rpartition(".")
    kept = {key: value for key, value in (values | changed).items() if key != "_target_"}
    return getattr(importlib.import_module(module), name)(**kept)


def preference(prompt, chosen, rejected, *, chosen_ended=True, rejected_ended=True, fresh=("chosen",), feedback=None, record="r"):
    """A pair: an example with a good and another reply. `prompt`: messages, or the user's only one as text."""
    from drift.records import Example, Labelled

    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    sides = (
        Labelled(text=chosen, ended=chosen_ended, fresh="chosen" in fresh, good=True),
        Labelled(text=rejected, ended=rejected_ended, fresh="rejected" in fresh, good=False),
    )
    return Example(prompt=messages, replies=sides, feedback=feedback, record=record)
