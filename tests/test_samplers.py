"""Samplers outside this process, and the check that they sample from the policy that is trained."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SMALL, compose, silence, write_model
from judge_server import Server, endpoint
from test_mine import wait_until_healthy

from drift.config import build
from drift.engine import models, same_policy
from drift.engine.ask import Ask
from drift.errors import UserError
from drift.evaluation.judged import Turn
from drift.evaluation.own_sampler import own_sampler
from drift.model.chat import prompt_ids
from drift.model.policy import load_model, load_tokenizer, policy_at, save_policy
from drift.randomness import Noise
from drift.records import Reply
from drift.sampler.openai import SEEDS, OpenAI
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

    def key(self):
        return {"temperature": self.temperature}

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
    return Ask(
        sampler=sampler or run.sampler, compute=run.train.compute, store=store, start=policy, policy=policy, **noise | changes
    )


def checked(folder, policy, sampler=None, **others):
    """The check's distance in nats per token."""
    return same_policy.same_policy_stage(asking(folder, policy, sampler), others).facts["apart"]


def test_a_policy_that_is_rounded_more_than_usual_is_not_taken_for_another(trained, tiny, tmp_path, monkeypatch):
    """A far too high rate makes weights whose rounding is beyond the usual limit, here by lowering that: training's own rounding
    counts then, and a sampler of another policy is still found."""
    monkeypatch.setattr(same_policy, "TOLERANCE", 1e-5)
    policy, rounded = trained(8), build(compose("model=tiny", "sampler.precision=bfloat16")).sampler
    found = []
    for name, sampler in (("right", rounded), ("wrong", Mistaken(inner=rounded, opens=policy_at(tiny)))):
        ask = asking(tmp_path / name, policy, sampler)
        ask.compute = replace(ask.compute, dtype="bfloat16")
        with pytest.raises(UserError, match="does not sample from the policy") if name == "wrong" else nullcontext():
            found.append(same_policy.same_policy_stage(ask, {}).facts["apart"])
    assert len(found) == 1 and found[0] > 1e-5


def test_the_share_of_the_way_is_a_least_squares_slope_with_its_error():
    """One token tells the policies apart by 1 nat, the other by nothing. The sampler is 0.5 nats from the policy at both."""
    assert same_policy.share([1.0, 0.0], [0.0, 0.0]) == (1.0, 0.0)
    way, error = same_policy.share([0.5, 0.5], [-0.5, 0.5])
    assert way == 0.5 and error == pytest.approx((0.5**2 / 2) ** 0.5)
    assert same_policy.share([0.1], [0.1]) == (0.0, float("inf"))


def test_rounding_alone_stops_no_run_and_twice_as_much_is_seen():
    """A thousand checks of 90 tokens, in which sampler, policy and another policy are rounded by 0.03 nats each. Where the policies
    are the same but for that, three standard errors are passed by chance about once; where they differ by 0.06, 99 times in 100."""
    import numpy as np

    random = np.random.default_rng(0)
    stops = {}
    for difference in (0.0, 0.06):
        wrong = right = 0
        for _ in range(1000):
            sampler, policy, other = random.normal(0, 0.03, (3, 90))
            step = random.normal(0, difference, 90)
            wrong += same_policy._fits_better(list(sampler - policy), list(sampler - (other + step)), greedy=False)
            right += same_policy._fits_better(list(sampler + step - policy), list(sampler - other), greedy=False)
        stops[difference] = (wrong, right)
    assert max(stops[0.0]) <= 5
    wrong, right = stops[0.06]
    assert wrong == 0 and right == pytest.approx(990, abs=10)


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
    file.write_text(
        file.read_text().replace("message['role'] + '\n'", "message['role'] + ': '").replace("assistant\n", "assistant: ")
    )
    assert policy_at(folder).fingerprint != policy_at(tiny).fingerprint
    sampler = Mistaken(inner=build(compose(*PLAIN)).sampler, opens=policy_at(folder))
    with pytest.raises(UserError, match=r"does not sample.*nats per token.*own chat template"):
        checked(tmp_path / "store", policy_at(tiny), sampler)


def test_a_checked_policy_is_not_checked_again(tiny, tmp_path):
    first = same_policy.same_policy_stage(asking(tmp_path, policy_at(tiny)), {})
    again = same_policy.same_policy_stage(asking(tmp_path, policy_at(tiny)), {})
    assert (first.hit, again.hit, again.facts["found"]) == (False, True, first.facts["found"])


def test_one_check_serves_all_evaluations_whatever_their_lengths_and_groups(tiny, tmp_path):
    """In bfloat16 replies depend on the group size, so it is in their key, but six prompts of the check are always one group."""
    sampler = build(compose(*PLAIN, "sampler.precision=bfloat16", "sampler.max_prompt_tokens=600")).sampler
    others = replace(sampler, max_new_tokens=99, max_prompt_tokens=2048, group_size=3), replace(sampler, temperature=0.0)
    checks = [same_policy.same_policy_stage(asking(tmp_path, policy_at(tiny), one), {}) for one in (sampler, *others)]
    assert [check.hit for check in checks] == [False, True, False]


def test_an_evaluation_leaves_the_groups_of_a_sampler_that_draws_them_at_once(tiny):
    evaluation = SimpleNamespace(temperature=0.0, max_new_tokens=1280, group_size=32)
    for given, group_size in ((PLAIN, 32), (["model=tiny", *SERVER, "iterations=0"], 192)):
        sampler = build(compose(*given)).sampler
        own = own_sampler(evaluation, ("temperature", "max_new_tokens", "group_size"), sampler, "evaluation.ifeval")
        assert (own.temperature, own.max_new_tokens, own.group_size) == (0.0, 1280, group_size)


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
    with pytest.raises(UserError, match="sampler.temperature=0.7 changes nothing.*do_sample: true"):
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
    assert [line.partition(":")[0] for line in lines] == [
        "Start model",
        "Iteration 1",
    ] and "nats per token" in lines[1]
    html.run_report(folder)
    assert lines[1].replace("'", "&#39;") in (folder / "report.html").read_text()


class Served(ThreadingHTTPServer):
    """A server of the OpenAI form with real models: `models`: name -> policy. It says a sentence that depends on the seed, with
    that model's log-probabilities. `template`: its own, or None. `adapters`: whether it loads them; `says`: instead of the
    sentence; `fail_after`: that many requests."""

    daemon_threads = True

    def __init__(self, *, models, template=None, adapters=False, says=None, fail_after=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.models, self.template, self.adapters, self.says, self.fail_after = dict(models), template, adapters, says, fail_after
        self.bodies, self.loaded, self.lock = [], {}, threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    @property
    def settings(self):
        return [
            PLAIN[0],
            PLAIN[2],
            *SERVER[:1],
            f"sampler.endpoint.url=http://127.0.0.1:{self.server_port}/v1",
            "sampler.endpoint.model=base",
        ]

    def sampler(self, folder, *more):
        return build(
            compose(*self.settings, LOADS, f"sampler.endpoint.cache_dir={folder}/answers", "sampler.group_size=4", *more)
        ).sampler

    def choice(self, body):
        policy = self.models[body["model"]]
        if body["model"] not in self.loaded:
            self.loaded[body["model"]] = load_model(policy, dtype()), load_tokenizer(policy)
        model, tokenizer = self.loaded[body["model"]]
        tokenizer.chat_template = self.template or tokenizer.chat_template
        text = f"It is a fine day, number {body['seed'] % 97}." if self.says is None else self.says
        prompt = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=False)
        reply = [*tokenizer(text or "")["input_ids"], tokenizer.eos_token_id]
        logits = model(input_ids=ids([*prompt, *reply])).logits[0, len(prompt) - 1 : -1].log_softmax(dim=1)
        nats = logits.gather(1, ids(reply)[0][:, None]).squeeze(1).tolist()
        given = {"content": [{"token": "?", "logprob": value} for value in nats]}
        return {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, "logprobs": given}


def dtype():
    import torch

    return torch.float32


def ids(tokens):
    import torch

    return torch.tensor([tokens])


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/v1/load_lora_adapter":
            if not server.adapters:
                return self.answer(404, {"detail": "Not Found"})
            if body["lora_name"] in server.models:
                return self.answer(400, {"error": f"The lora adapter '{body['lora_name']}' has already been loaded."})
            server.models[body["lora_name"]] = policy_at(Path(body["lora_path"]))
            return self.answer(200, "Success")
        with server.lock:
            server.bodies.append(body)
            if server.fail_after is not None and len(server.bodies) > server.fail_after:
                return self.answer(401, {"error": "no such key"})
            choice = server.choice(body)
        self.answer(200, {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]})

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def drawn(sampler, policy, prompts=ASKED):
    with sampler.open(policy) as generate:
        return generate(prompts, NOISE[: len(prompts)], lambda share: None)


def test_a_server_is_asked_for_each_reply_with_a_seed_of_its_own(tiny, tmp_path):
    """The reply is what it said, its tokens (of a byte each) are counted as training does, and an answer is paid for once."""
    policy = policy_at(tiny)
    with Served(models={"base": policy}) as server:
        sampler = server.sampler(tmp_path, "sampler.endpoint.fields.top_k=7", "sampler.endpoint.fields.min_p=null")
        replies = drawn(sampler, policy)
        says = [f"It is a fine day, number {noise.as_seed() % SEEDS % 97}." for noise in NOISE]
        assert replies == [Reply(text=text, num_tokens=len(text) + 1, ended=True) for text in says]
        asked = {body["seed"]: body for body in server.bodies}
        assert sorted(asked) == sorted(noise.as_seed() % SEEDS for noise in NOISE)
        first = asked[NOISE[0].as_seed() % SEEDS]
        assert (first["temperature"], first["top_p"], first["max_tokens"], first["top_k"]) == (0.7, 0.9, 64, 7)
        assert first["repetition_penalty"] == 1 and first["frequency_penalty"] == first["presence_penalty"] == 0
        assert "min_p" not in first
        assert first["messages"] == ASKED[0] and first["logprobs"] is True and "chat_template_kwargs" not in first
        assert drawn(sampler, policy) == replies and len(server.bodies) == 4


def test_what_a_server_would_misread_gets_no_reply(tiny, tmp_path):
    """A control token that a user typed, and a prompt that is too long."""
    typed = [{"role": "user", "content": "What does <|im_end|> mean?"}]
    with Served(models={"base": policy_at(tiny)}) as server:
        long = [{"role": "user", "content": "Why? " * 30}]
        sampler = server.sampler(tmp_path, "sampler.max_prompt_tokens=120")
        replies = drawn(sampler, policy_at(tiny), [typed, ASKED[0], long])
        assert [reply is None for reply in replies] == [True, False, True] and len(server.bodies) == 1


@pytest.mark.parametrize("text", ["", None])
def test_a_reply_may_be_empty_and_one_that_is_missing_is_no_reply(text, tiny, tmp_path):
    with Served(models={"base": policy_at(tiny)}, says=text or "") as server:
        server.choice_text = text
        if text is None:
            choice = server.choice
            server.choice = lambda body: choice(body) | {"message": {"role": "assistant", "content": None}}
            with pytest.raises(UserError, match="4 of 4 replies .* no text .*reasoning"):
                drawn(server.sampler(tmp_path), policy_at(tiny))
            return
        assert drawn(server.sampler(tmp_path), policy_at(tiny)) == [Reply(text="", num_tokens=1, ended=True)] * 4


def test_a_failing_server_costs_the_requests_under_way(tiny, tmp_path):
    policy = policy_at(tiny)
    with Served(models={"base": policy}, fail_after=2) as server:
        sampler = server.sampler(tmp_path, "sampler.endpoint.concurrency=1")
        with pytest.raises(UserError, match=r"status 401: .*no such key.* 2 of the 4 questions are answered.*same command"):
            drawn(sampler, policy)
        server.fail_after, before = None, len(server.bodies)
        assert None not in drawn(sampler, policy) and len(server.bodies) == before + 2


def test_a_vllm_server_gets_each_adapter_under_a_name_of_its_own(trained, tiny, tmp_path):
    base, first, second = policy_at(tiny), trained(1), trained(2)
    with Served(models={"base": base}, adapters=True) as server:
        sampler = server.sampler(tmp_path)
        assert checked(tmp_path / "store", first, sampler, start=base) < 1e-5
        for policy in (base, second, second):
            assert None not in drawn(sampler, policy, ASKED[:1])
        names = [f"policy-{one.fingerprint[:16]}" for one in (first, second)]
        assert {name: policy.directory for name, policy in server.models.items() if name != "base"} == dict(
            zip(names, [first.directory, second.directory], strict=True)
        )


@pytest.mark.parametrize("wrong", ["weights", "template"])
def test_a_server_with_other_weights_or_another_template_stops_the_run(wrong, trained, tiny, tmp_path):
    """Nothing of the check's replies is kept: after the server was set right, it passes."""
    base, policy = policy_at(tiny), trained(1)
    name = f"policy-{policy.fingerprint[:16]}"
    bare = load_tokenizer(base).chat_template.replace("You are a tiny test model.", "")
    with Served(models={"base": base, name: base if wrong == "weights" else policy}, adapters=True) as server:
        server.template = bare if wrong == "template" else None
        sampler = server.sampler(tmp_path)
        says = "They fit start" if wrong == "weights" else "does not sample from the policy"
        with pytest.raises(UserError, match=says):
            checked(tmp_path / "store", policy, sampler, start=base)
        server.models[name], server.template, server.loaded = policy, None, {}
        assert checked(tmp_path / "store", policy, sampler, start=base) < 1e-5


def test_a_server_that_serves_another_model_since_the_check_stops_the_run_that_goes_on(spoken, tmp_path, monkeypatch):
    """The check is in the store. What is in the store needs no server; before a fresh reply, a new process compares once."""
    policy, other = spoken
    items = [Turn(key=str(i), prompt=prompt) for i, prompt in enumerate(ASKED)]
    draw = lambda some: list(asking(tmp_path / "store", policy, sampler).draw(some, lambda one: [one.prompt], label="t"))  # noqa: E731
    with Served(models={"base": policy}) as server:
        sampler = server.sampler(tmp_path, "sampler.group_size=2")
        assert checked(tmp_path / "store", policy, sampler) < 1e-5
        before = len(server.bodies)
        assert len(draw(items[:2])) == 2 and len(server.bodies) == before + 2
        monkeypatch.setattr(same_policy, "_compared", set())
        server.models, server.loaded = {"base": other}, {}
        assert checked(tmp_path / "store", policy, sampler) < 1e-5 and len(draw(items[:2])) == 2
        with pytest.raises(UserError, match="does not sample from the policy"):
            draw(items)
        server.models, server.loaded = {"base": policy}, {}
        assert len(draw(items)) == 4


def test_a_server_that_loads_no_adapters_says_how_to_start_it(trained, tiny, tmp_path):
    with Served(models={"base": policy_at(tiny)}) as server:
        with pytest.raises(UserError, match=r"did not load the adapter .*status 404: .*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
            drawn(server.sampler(tmp_path), trained(1))


REFUSED = {
    "full": ([*SERVER, LOADS, "train=full"], "a server can't load full weights while it runs"),
    "qlora": ([*SERVER, LOADS, "train=qlora"], "can't load an adapter on weights that train=qlora quantises"),
    "no adapters": (SERVER, "set sampler.load_adapters=true"),
    "deployed": ([*SERVER, LOADS, "data.deployed.policy=TINY"], "full weights"),
    "fields": ([*SERVER, LOADS, "+sampler.endpoint.fields.seed=1"], "endpoint.fields.seed: this field has a setting of its own"),
    "no vllm": (["sampler=vllm", "sampler.python=null"], r"needs the package vllm.*pip install 'drift\[vllm\]'"),
    "no interpreter": (["sampler=vllm", "sampler.python=/no/python"], "expected the path of a Python interpreter"),
    "no vllm there": (["sampler=vllm", f"sampler.python={sys.executable}"], "this interpreter does not find vLLM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_sampler_can_not_do_is_refused_before_anything_loads(name, tiny):
    settings, says = REFUSED[name]
    with pytest.raises(UserError, match=says):
        build(compose("model=tiny", *(one.replace("TINY", str(tiny)) for one in settings)))


def test_the_start_model_alone_can_be_sampled_from_any_server():
    assert build(compose("model=tiny", *SERVER, "iterations=0")).sampler.load_adapters is False


STAND_IN = """
import json, multiprocessing, os, sys
from vllm.lora import request
from vllm.lora.request import LoRARequest

__version__ = "0"
print("vllm says a lot on standard output")


class SamplingParams:
    def __init__(self, **settings):
        self.settings = settings


class LLM:
    def __init__(self, **arguments):
        how = os.environ.get("VLLM_WORKER_MULTIPROC_METHOD", "fork")  # as vLLM starts its core on a GPU
        core = multiprocessing.get_context(how).Process(target=print, args=("a core",), daemon=True)
        core.start()
        core.join(60)
        if core.exitcode != 0:
            raise RuntimeError("its core hangs")
        with open(os.environ["SEEN"], "a") as seen:
            seen.write(json.dumps(arguments) + "\\n")

    def generate(self, prompts, sampling, lora_request, use_tqdm):
        print("progress")
        with open(os.environ["SEEN"], "a") as seen:
            seen.write(json.dumps([prompts, [one.settings for one in sampling], vars(lora_request)]) + "\\n")
        if "DIE" in os.environ:
            print("torch.OutOfMemoryError: CUDA out of memory.", file=sys.stderr, flush=True)
            os.kill(os.getpid(), 9)
        ends = sampling[0].settings["stop_token_ids"]
        return [Result([65, 66, *ends]) for _ in prompts]


class Result:
    def __init__(self, token_ids):
        self.outputs, self.token_ids = [self], token_ids
        self.logprobs = [{i: Nat()} for i in token_ids]


class Nat:
    logprob = -0.5
"""
REQUEST = """
class LoRARequest:
    def __init__(self, name, number, path):
        self.name, self.number, self.path = name, number, path
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package named vllm that an interpreter finds: it takes what the engine's program gives it, and answers like vLLM."""
    package = tmp_path / "packages/vllm"
    (package / "lora").mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (package / "lora/__init__.py").write_text("")
    (package / "lora/request.py").write_text(REQUEST)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    settings = [*PLAIN, "sampler=vllm", f"sampler.python={sys.executable}", f"sampler.log_dir={tmp_path}/log"]
    return build(compose(*settings, "sampler.max_prompt_tokens=100")).sampler


def test_an_engine_gets_token_ids_seeds_and_the_adapter(stand_in, trained, tokenizer, tmp_path):
    """In a process that finds vLLM, not this package's modules of the same names, and whose output is in a file. A prompt that is
    too long does not reach it. Its process is gone at the end."""
    policy, long = trained(1), [{"role": "user", "content": "Why? " * 30}]
    replies = drawn(stand_in, policy, [ASKED[0], long, ASKED[1]])
    assert replies == [Reply(text="bc", num_tokens=3, ended=True), None, Reply(text="bc", num_tokens=3, ended=True)]
    loaded, (prompts, sampling, adapter) = map(json.loads, (tmp_path / "seen").read_text().splitlines())
    assert (loaded["model"], loaded["max_model_len"], loaded["dtype"]) == (str(policy.base), 164, "float32")
    assert (loaded["enable_lora"], loaded["max_lora_rank"]) == (True, 8)
    assert prompts == [{"prompt_token_ids": prompt_ids(tokenizer, ASKED[i])} for i in (0, 1)]
    assert [one["seed"] for one in sampling] == [NOISE[0].as_seed(), NOISE[2].as_seed()]
    assert adapter == {"name": f"policy-{policy.fingerprint[:16]}", "number": 1, "path": str(policy.directory)}
    (log,) = (tmp_path / "log").iterdir()
    assert "vllm says a lot" in log.read_text() and "a core" in log.read_text()
    (scored,) = stand_in.draw_scored(policy, ASKED[:1], NOISE[:1])
    assert (scored.tokens, scored.nats) == ([65, 66, tokenizer.eos_token_id], [-0.5] * 3)


def test_an_engine_that_dies_says_how_and_what_to_do(stand_in, trained, monkeypatch):
    monkeypatch.setenv("DIE", "1")
    says = r"engine has failed: it was ended by SIGKILL. It is short of memory.*sampler.memory_share.*Its log: .*same command"
    with pytest.raises(UserError, match=says):
        drawn(stand_in, trained(1))


def test_an_engine_that_can_not_start_says_why(stand_in, trained, tmp_path):
    (tmp_path / "packages/vllm/__init__.py").write_text("raise ImportError('libcudart.so.13 is missing')")
    with pytest.raises(UserError, match=r"engine has failed: ImportError: libcudart.so.13 is missing What led to it is in its log"):
        drawn(stand_in, trained(1))


def test_a_quantised_policy_is_not_sampled_by_vllm(stand_in, tiny):
    with pytest.raises(UserError, match="does not load weights as train=qlora quantises them"):
        drawn(stand_in, policy_at(tiny, "nf4"))


@pytest.mark.slow
@pytest.mark.peer
def test_replies_of_transformers_serve(spoken, tmp_path):
    """It has no log-probabilities, and ignores the temperature until it is told to sample."""
    policy, other = spoken
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        str(policy.directory),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    with open(tmp_path / "log", "w") as log:
        offline = os.environ | {"HF_HUB_OFFLINE": "1"}
        server = subprocess.Popen([*serve, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log, env=offline)
    served = [PLAIN[0], PLAIN[2], SERVER[0], f"sampler.endpoint.url=http://127.0.0.1:{port}/v1", "iterations=0"]
    served += [
        f"sampler.endpoint.model={policy.directory}",
        f"sampler.endpoint.cache_dir={tmp_path}/answers",
        "sampler.endpoint.retries=0",
    ]
    samples = """+sampler.endpoint.fields.generation_config='{"do_sample": true}'"""
    served += [f"sampler.endpoint.fields.{name}=null" for name in ("top_k", "min_p", "repetition_penalty")]
    try:
        wait_until_healthy(server, port, tmp_path / "log")
        with pytest.raises(UserError, match="sampler.temperature=0.7 changes nothing"):
            checked(tmp_path / "greedy", policy, build(compose(*served)).sampler)
        sampler = build(compose(*served, samples, "sampler.endpoint.concurrency=1")).sampler
        assert checked(tmp_path / "right", policy, sampler, start=other) == 0.0
        assert drawn(sampler, policy, ASKED[:2]) != drawn(replace(sampler, temperature=0.0), policy, ASKED[:2])
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.skipif("DRIFT_VLLM_PYTHON" not in os.environ, reason="DRIFT_VLLM_PYTHON=PATH: an interpreter that has vLLM")
def test_a_real_vllm_samples_from_an_adapter_and_is_found_out_without_it(tmp_path):
    """SmolLM2 with an adapter of random numbers, in bfloat16: some minutes on a CPU."""
    import torch

    model = build(compose("iterations=0")).model.directory()
    base = policy_at(model)
    adapted = Lora(rank=8, scale=2.0, top_share=1.0, quantization="none").attach(load_model(base, torch.float32, trainable=True))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    save_policy(adapted, base, tmp_path / "policy")
    where = [f"sampler.python={os.environ['DRIFT_VLLM_PYTHON']}", f"sampler.log_dir={tmp_path}/log", "sampler.eager=true"]
    sampler = build(compose("sampler=vllm", "sampler.max_prompt_tokens=256", *where)).sampler
    policy = policy_at(tmp_path / "policy")
    assert 0 < checked(tmp_path / "store", policy, sampler, start=base) < same_policy.TOLERANCE
    with pytest.raises(UserError, match="They fit start"):
        checked(tmp_path / "withheld", policy, Mistaken(inner=sampler, opens=base), start=base)


def test_one_cap_holds_for_the_replies_of_a_run_and_of_the_run_that_goes_on(tiny, tmp_path, monkeypatch):
    """Ten replies in groups of two, a dollar each. With a cap of four, the first two groups are drawn, and the same command again
    asks nothing; with a cap of ten it asks the rest."""
    monkeypatch.setattr("drift.engine.ask.compare_again", lambda ask: None)
    items = [SimpleNamespace(key=str(i), prompt=[{"role": "user", "content": f"hello {i}"}]) for i in range(10)]
    how = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 8, "max_prompt_tokens": 200, "group_size": 2, "load_adapters": False}

    def run(dollars):
        models.close()  # as in another process
        sampler = OpenAI(**how, endpoint=endpoint(server, tmp_path / "answers", max_dollars=dollars, concurrency=1))
        settings = build(compose("model=tiny", f"store.dir={tmp_path}/store"))
        policy = policy_at(tiny)
        ask = Ask(
            sampler=sampler, compute=settings.train.compute, store=settings.store, start=policy, policy=policy, seed=0,
            purpose="test", iteration=0,
        )  # fmt: skip
        with ask:
            return [reply.text for _, (reply,) in ask.draw(items, lambda item: [item.prompt], label="t")]

    with Server(answers=lambda body: "hi") as server:
        for _ in range(2):
            with pytest.raises(UserError, match=r"max_dollars=4.*0 of the 2 questions are answered, for 4 dollars"):
                run(4)
            assert server.served == 4
        assert run(10) == ["hi"] * 10 and server.served == 10
