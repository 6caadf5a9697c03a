"""The scores that reports show, each against a value derived by hand."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import compose
from hydra.utils import instantiate
from test_methods import record

from drift.engine.ask import Ask
from drift.evaluation import deployment, replies
from drift.evaluation.heldout import Heldout, of_logprobs
from drift.evaluation.replies import copies, distinct2, perplexity
from drift.evaluation.stage import evaluation_stage
from drift.model.chat import prompt_ids
from drift.model.policy import load_model, load_tokenizer, policy_at
from drift.records import Reply
from drift.store import Store


def task(key, topic, request):
    prompt = [{"role": "user", "content": f"Tell me something about {topic}."}]
    return SimpleNamespace(key=key, prompt=prompt, truth={"topic": topic, "request": request})


def reply(text, ended=True):
    return Reply(text=text, num_tokens=9, ended=ended)


DRAWN = [
    (task("a", "tea", "one_sentence"), [reply("Tea is warm and good."), reply("Tea, warm and good, is very nice", ended=False)]),
    (
        task("b", "dogs", "at_most_20_words"),
        [reply("Cats are very small animals.", ended=False), reply("Dogs dogs dogs DOGS dogs dogs.", ended=False)],
    ),
]


def test_scores_of_a_deployment_by_hand():
    """Task a: the first reply is all right, the second breaks off. Task b: the first is about cats, the second is one word six
    times, which is on topic, short enough and no sound reply. So one reply of four is useful; met, on topic and ended are told
    apart by who has them.

    Word pairs: 4 + 6 + 4 + 5 = 19. Of the second reply "warm and" and "and good" are in the first, of the last four of five are the
    fifth: 19 - 2 - 4 = 13 different ones."""
    found = deployment.of_replies(DRAWN) | replies.of_replies(DRAWN, 12.5)
    assert {name: one["per_item"] for name, one in found.items() if one["per_item"] is not None} == {
        "utility": {"a": 0.5, "b": 0.0},
        "request met": {"a": 0.5, "b": 1.0},
        "on topic": {"a": 1.0, "b": 0.5},
        "words": {"a": 6.0, "b": 5.5},
        "missing ends": {"a": 0.5, "b": 1.0},
        "copies": {"a": 0.0, "b": 0.0},
    }
    assert {name: one["value"] for name, one in found.items()} == pytest.approx({
        "utility": 0.25, "request met": 0.75, "on topic": 0.75, "words": 5.75, "distinct-2": 13 / 19, "missing ends": 0.75,
        "copies": 0.0, "perplexity under start": 12.5,
    })  # fmt: skip


def test_distinct2_of_no_text_and_of_a_repetition():
    """In a b a b a the pairs are ab, ba, ab, ba: two of four. Replies are counted together, and no pair spans two of them."""
    assert distinct2(["a b a b a"]) == 0.5 and distinct2(["a b", "A b", "b a"]) == 2 / 3
    assert distinct2([]) == distinct2(["one"]) == 0.0


@pytest.fixture
def uniform(qwen2, tmp_path):
    """A model to which all of its tokens are equally likely."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(qwen2, tmp_path / "uniform")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"].zero_()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return policy_at(folder)


def vocabulary(policy):
    return json.loads((policy.base / "config.json").read_text())["vocab_size"]


@pytest.fixture
def ask(tmp_path):
    """`ask(policy, start)` with a store of its own."""
    train = instantiate(compose("train.precision=float32").train)
    store = Store(dir=str(tmp_path / "store"), strict=False, verify=False, lease_seconds=9.0, keep_policies="all")

    def bound(policy, start):
        return Ask(
            sampler=None, compute=train.compute, store=store, start=start, policy=policy, seed=0, purpose="evaluation", iteration=0
        )

    return bound


def test_the_perplexity_of_a_uniform_model_is_its_vocabulary_size(uniform, ask):
    """Of the first reply of each task; tasks whose first reply has no text are left out, and without any there is no number."""
    silent = [(DRAWN[0][0], [reply(""), reply("Tea.")])]
    for drawn in (DRAWN, silent + DRAWN):
        assert perplexity(ask(uniform, uniform), drawn) == pytest.approx(vocabulary(uniform), rel=1e-5)
    assert perplexity(ask(uniform, uniform), silent) is None


def test_perplexity_is_per_token_and_not_per_reply(qwen2, uniform, ask):
    """Two replies of 3 and 30 letters, one of them cut off: e to the sum of all losses over 3 + 1 + 30 tokens."""
    drawn = [(DRAWN[0][0], [reply("Tea")]), (DRAWN[1][0], [reply("Dogs are no cats, and no birds", ended=False)])]
    short, long = (plain(qwen2, item.prompt, said.text, said.ended) for item, (said,) in drawn)
    assert perplexity(ask(uniform, policy_at(qwen2)), drawn) == pytest.approx(math.exp(-(short + long) / 34), rel=1e-4)
    assert abs(math.exp(-(short / 4 + long / 30) / 2) - math.exp(-(short + long) / 34)) > 0.1


LENGTHS = {("a", "dsat"): 4, ("a", "revised"): 3, ("b", "dsat"): 2, ("b", "revised"): 5, ("c", "dsat"): 10, ("d", "sat"): 8}
BEFORE = dict(zip(LENGTHS, (-10.0, -9.0, -7.0, -8.0, -20.0, -16.0), strict=True))
NOW = dict(zip(LENGTHS, (-12.0, -6.0, -6.0, -10.0, -15.0, -12.0), strict=True))


def test_scores_of_held_out_records_by_hand():
    """a: the better reply gained 3 nats, the disliked one lost 2: margin 5. b: lost 2 and gained 1: margin -3. c has no second
    reply, d pleased. Chosen: -6 / 3, -10 / 5, -12 / 8 nats a token. Lost: 2 / 4, -1 / 2, -5 / 10."""
    found = of_logprobs(NOW, BEFORE, LENGTHS)
    assert {name: one["per_item"] for name, one in found.items()} == {
        "margin against start (nats)": {"a": 5.0, "b": -3.0},
        "pair accuracy": {"a": 1.0, "b": 0.0},
        "chosen log-prob per token": {"a": -2.0, "b": -2.0, "d": -1.5},
        "log-prob lost per disliked token": {"a": 0.5, "b": -0.5, "c": -0.5},
    }
    assert found["margin against start (nats)"]["value"] == 1.0 and found["pair accuracy"]["value"] == 0.5
    assert found["chosen log-prob per token"]["value"] == pytest.approx(-5.5 / 3)
    assert found["log-prob lost per disliked token"]["value"] == pytest.approx(-0.5 / 3)


def test_a_margin_of_zero_counts_as_half():
    same = {name: BEFORE[name] for name in LENGTHS}
    found = of_logprobs(same, BEFORE, LENGTHS)
    assert found["pair accuracy"]["per_item"] == {"a": 0.5, "b": 0.5} and found["margin against start (nats)"]["value"] == 0.0


def test_held_out_records_reach_the_scores_with_their_labels(qwen2, uniform, ask):
    """A disliked reply, its better one and a praised one: a model that guesses has ln V a token, whatever the start model has. The
    tokens are letters here, and one for the end of turn, which a reply that was cut off has not: 3 and 1, 4, 2."""
    records = [
        record(0, "dsat", reply="Bad", revised="Good", ended=True),
        record(1, "dsat", reply="No", revised=None, ended=False),
        record(2, "sat", reply="Fine", ended=True),
    ]
    evaluation = Heldout(share=0.2, max_records=64, num_sampled_prompts=0)
    stage = evaluation_stage(ask(uniform, policy_at(qwen2)), evaluation, records, 16)
    found = json.loads((stage.path / "scores.json").read_text())
    guess, metrics = -math.log(vocabulary(uniform)), found["metrics"]
    assert found["headline"] == "margin against start (nats)"
    a, b, c = (one.key for one in records)
    assert metrics["chosen log-prob per token"]["per_item"] == pytest.approx({a: guess, c: guess}, rel=1e-6)
    assert set(metrics["log-prob lost per disliked token"]["per_item"]) == {a, b}
    assert set(metrics["margin against start (nats)"]["per_item"]) == {a} == set(metrics["pair accuracy"]["per_item"])
    gains = [guess * n - plain(qwen2, records[0].prompt, text, True) for n, text in ((5, "Good"), (4, "Bad"))]
    assert metrics["margin against start (nats)"]["per_item"][a] == pytest.approx(gains[0] - gains[1], abs=1e-4)
    cut = plain(qwen2, records[1].prompt, "No", False)
    assert metrics["log-prob lost per disliked token"]["per_item"][b] == pytest.approx(cut / 2 - guess, abs=1e-5)


def plain(model, prompt, text, ended):
    """A reply's log-prob under a model, token by token from whole logits."""
    import torch

    policy = policy_at(model)
    tokenizer, loaded = load_tokenizer(policy), load_model(policy, torch.float32)
    before = prompt_ids(tokenizer, prompt)
    ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] * ended
    with torch.no_grad():
        logp = loaded(torch.tensor([before + ids])).logits[0].log_softmax(dim=1)
    return sum(float(logp[len(before) + i - 1, token]) for i, token in enumerate(ids))


@pytest.mark.parametrize(
    ("kept", "headline"), [(("dsat", "sat"), "chosen log-prob per token"), (("dsat",), "log-prob lost per disliked token")]
)
def test_the_headline_is_the_first_score_that_the_log_allows(kept, headline, tiny, ask):
    log = [one for one in (record(0, "dsat"), record(1, "sat")) if one.label in kept]
    evaluation = Heldout(share=0.2, max_records=64, num_sampled_prompts=0)
    found = evaluation.measure(ask(policy_at(tiny), policy_at(tiny)), [replace(one, truth=None) for one in log])
    assert found.headline == headline


def test_a_copy_equals_the_logged_reply_or_a_reply_to_another_prompt():
    """a and b say "Yes" (b once, and once what c says there): all of them. c repeats its logged reply but for the dot; d says
    nothing, as e does, and no copy is made of nothing."""
    logged = replace(record(0, "dsat", reply="No, never"), id="c")
    drawn = [
        (task("a", "tea", "one_sentence"), [reply("Yes."), reply("yes")]),
        (task("b", "tea", "one_sentence"), [reply("Yes."), reply("No, never")]),
        (logged, [reply("No, never."), reply("Never")]),
        (task("d", "tea", "one_sentence"), [reply("")]),
        (task("e", "tea", "one_sentence"), [reply("")]),
    ]
    assert copies(drawn[:1]) == {"a": 0.0}
    assert copies(drawn) == {"a": 1.0, "b": 1.0, logged.key: 0.5, "d": 0.0, "e": 0.0}
    assert copies(drawn[2:]) == {logged.key: 0.5, "d": 0.0, "e": 0.0}
