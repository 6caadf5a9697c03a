"""Samplers outside this process, and the check that they sample from the policy that is trained."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, SMALL, compose, silence, write_model
from test_mine import wait_until_healthy

from drift.config import build
from drift.engine import same_policy
from drift.engine.ask import Ask
from drift.errors import UserError
from drift.model.chat import reply_ids
from drift.model.policy import load_model, load_tokenizer, policy_at, save_policy
from drift.randomness import Noise
from drift.records import Reply
from drift.sampler.process import start
from drift.score.reference import token_logprobs
from drift.score.sequence import TokenSequence
from drift.store import Store
from drift.train.lora import Lora

PLAIN = ["model=tiny", "sampler.precision=float32", "train.precision=float32"]
SERVER = ["sampler=openai", "sampler.endpoint.url=http://127.0.0.1:1/v1", "sampler.endpoint.model=base"]
LOADS = "sampler.load_adapters=true"
THE_START = "the start model"
ASKED = [[{"role": "user", "content": f"What is {i}?"}] for i in range(4)]
NOISE = [Noise(0, "test", 0, str(i), 0) for i in range(4)]


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """`trained(n)`: the policy of the n-th iteration, an adapter of the tiny model that differs a little from the one before."""
    import torch

    @torch.no_grad()
    def made(n):
        folder = tmp_path_factory.mktemp("trained") / "policy"
        base = policy_at(tiny)
        model = Lora(rank=4, scale=2.0, top_share=1.0, quantization="none").attach(load_model(base, torch.float32, trainable=True))
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.copy_(0.02 * (n if "lora_B" in name else 1) * torch.randn(parameter.shape, generator=generator))
        save_policy(model, base, folder)
        return policy_at(folder)

    return made


@dataclass(frozen=True, kw_only=True)
class Mistaken:
    """A sampler that opens another directory than it is given: weights that never arrived, or a template of its own."""

    inner: Any
    opens: Any

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def draw_scored(self, policy, prompts, noise):
        return self.inner.draw_scored(self.opens, prompts, noise)

    @contextmanager
    def open(self, policy):
        with self.inner.open(self.opens) as generate:
            yield generate


@dataclass(frozen=True, kw_only=True)
class Silent:
    """A sampler that knows no log-probabilities. `deaf`: to the temperature, too."""

    inner: Any
    opens: Any
    temperature: float
    deaf: bool

    max_new_tokens, max_prompt_tokens, group_size = 8, 500, 8

    @contextmanager
    def open(self, policy):
        inner = replace(self.inner, temperature=0.0 if self.deaf else self.temperature)
        with inner.open(self.opens or policy) as generate:
            yield generate


@dataclass(frozen=True, kw_only=True)
class Dice:
    """A sampler that has neither log-probabilities nor a temperature."""

    max_new_tokens, max_prompt_tokens, group_size = 8, 500, 8

    @contextmanager
    def open(self, policy):
        yield lambda prompts, noise, tick: [Reply(text="six", num_tokens=2, ended=True)] * len(prompts)


def asking(folder, policy, sampler=None, **changes):
    run = build(compose(*PLAIN))
    store = Store(dir=str(folder), strict=False, verify=False, lease_seconds=9.0, keep_policies="all")
    noise = {"seed": 0, "purpose": "test", "iteration": 0}
    return Ask(sampler=sampler or run.sampler, compute=run.train.compute, store=store, start=policy, policy=policy, **noise | changes)


def checked(folder, policy, sampler=None, **others):
    """The check's distance in nats per token."""
    return same_policy.same_policy_stage(asking(folder, policy, sampler), others).facts["apart"]


def test_the_share_of_the_way_is_a_least_squares_slope_with_its_error():
    """One token tells the policies apart by 1 nat, the other by nothing. The sampler is 0.5 nats from the policy at both."""
    assert same_policy.share([1.0, 0.0], [0.0, 0.0]) == (1.0, 0.0)
    way, error = same_policy.share([0.5, 0.5], [-0.5, 0.5])
    assert way == 0.5 and error == pytest.approx((0.5**2 / 2) ** 0.5)
    assert same_policy.share([0.1], [0.1]) == (0.0, float("inf"))


def test_an_adapter_that_never_reached_the_sampler_stops_the_run(tiny, trained, tmp_path):
    """Base and policy differ by 0.02 nats per token, far less than the tolerance for rounding."""
    policy, base = trained(1), policy_at(tiny)
    assert checked(tmp_path, policy, start=base) < 1e-5
    sampler = Mistaken(inner=build(compose(*PLAIN)).sampler, opens=base)
    with pytest.raises(UserError, match=r"does not sample from the policy .*They fit start \(0.0000 nats\).*adapter"):
        checked(tmp_path / "mistaken", policy, sampler, start=base)


def test_weights_of_the_iteration_before_stop_the_run(tiny, trained, tmp_path):
    stale, policy = trained(1), trained(2)
    sampler = Mistaken(inner=build(compose(*PLAIN)).sampler, opens=stale)
    with pytest.raises(UserError, match="They fit before"):
        checked(tmp_path, policy, sampler, start=policy_at(tiny), before=stale)


def test_another_chat_template_stops_the_run_before_the_first_training(tiny, tmp_path):
    """Of the start model, which can't be mistaken for another policy: no line break after the role."""
    import shutil

    folder = shutil.copytree(tiny, tmp_path / "other")
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("message['role'] + '\n'", "message['role'] + ': '").replace("assistant\n", "assistant: "))
    assert policy_at(folder).fingerprint != policy_at(tiny).fingerprint
    sampler = Mistaken(inner=build(compose(*PLAIN)).sampler, opens=policy_at(folder))
    with pytest.raises(UserError, match=r"does not sample.*nats per token.*own chat template"):
        checked(tmp_path / "store", policy_at(tiny), sampler)


def test_a_checked_policy_is_not_checked_again(tiny, tmp_path):
    first = same_policy.same_policy_stage(asking(tmp_path, policy_at(tiny)), {})
    again = same_policy.same_policy_stage(asking(tmp_path, policy_at(tiny)), {})
    assert (first.hit, again.hit, again.facts["found"]) == (False, True, first.facts["found"])


@pytest.fixture(scope="module")
def spoken(tokenizer, tmp_path_factory):
    """Two models that write plain characters, whose text gives the tokens back."""
    import torch

    folder = tmp_path_factory.mktemp("spoken")
    one = policy_at(write_model("qwen2", tokenizer, folder / "one", spoken=90))
    model = load_model(one, torch.float32)
    torch.nn.init.normal_(model.model.layers[0].mlp.up_proj.weight, generator=torch.Generator().manual_seed(0))
    silence(model, 90)
    save_policy(model, one, folder / "other")
    return one, policy_at(folder / "other")


def test_of_a_sampler_without_log_probabilities_the_greedy_replies_are_compared(spoken, tmp_path):
    """Two unlike models agree about no token; and a server that ignores the temperature is found out."""
    policy, other = spoken
    inner = replace(build(compose(*PLAIN)).sampler, max_new_tokens=8)
    silent = Silent(inner=inner, opens=None, temperature=0.7, deaf=False)
    assert checked(tmp_path, policy, silent, start=other) == 0.0
    with pytest.raises(UserError, match="They fit start"):
        checked(tmp_path / "base", policy, replace(silent, opens=other), start=other)
    with pytest.raises(UserError, match="sampler.temperature=0.7 changes nothing.*sampler.extra"):
        checked(tmp_path / "deaf", policy, replace(silent, deaf=True), start=other)


def test_what_can_not_be_compared_is_said(tiny, tmp_path):
    found = same_policy.same_policy_stage(asking(tmp_path, policy_at(tiny), Dice()), {}).facts
    assert (found["apart"], "not known whether" in found["found"]) == (None, True)


@pytest.mark.slow
def test_a_run_whose_adapter_is_withheld_ends_before_the_policy_is_used(cache, tiny, tmp_path):
    """It has trained, and evaluates nothing of what it has trained. With the adapter, run.json and the report have both lines."""
    from drift.journal import Journal
    from drift.loop import execute
    from drift.report import html

    settings = [*SMALL, *PLAIN[1:], f"model.cache_dir={cache}", f"store.dir={tmp_path}/store", "iterations=1"]
    for name in ("withheld", "right"):
        run, folder = build(compose(*settings)), tmp_path / name
        folder.mkdir()
        journal = Journal(folder, {"method": "drift"}, {}, run.store, run.logger, run.alarms)
        if name == "right":
            execute(run, journal)
            continue
        with pytest.raises(UserError, match="They fit the start model"):
            execute(replace(run, sampler=Mistaken(inner=run.sampler, opens=policy_at(tiny))), journal)
        assert [point.name for point in journal.state.points] == ["start", "iteration 1"]
        assert not journal.state.points[1].scores
    journal.finish(None)
    lines = json.loads((folder / "run.json").read_text())["compared"]
    assert [line.partition(":")[0] for line in lines] == ["Start model", "Iteration 1"] and "from those of the start model" in lines[1]
    html.run_report(folder)
    assert lines[1].replace("'", "&#39;") in (folder / "report.html").read_text()
