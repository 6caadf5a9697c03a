"""`drift signal` on the tiny model: gradients against autograd, a method's row against a few lines of numpy, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, compose, feedback_file
from hydra.utils import instantiate
from test_methods import record

from drift.__main__ import dispatch
from drift.config import build
from drift.engine.ask import Ask
from drift.errors import UserError
from drift.model.policy import load_tokenizer, policy_at, save_policy
from drift.records import Reply, example, fresh, logged
from drift.score import shared
from drift.score.plan import tokenize
from drift.score.sequence import TokenSequence
from drift.signal.choice import runs_of, split
from drift.signal.gradients import Gradients, open_gradients
from drift.signal.known import directions, summary
from drift.signal.measure import measure
from drift.signal.method import best, of_method
from drift.signal.replies import Drawn, fresh_replies, verdicts
from drift.train.fit import trainable

SEQUENCES = [TokenSequence(prompt=p, reply=r) for p, r in (([5, 6, 7], [8, 9]), ([5, 6, 7], [9]), ([4, 4], [7, 7, 8]), ([3], [9]))]


def one_by_one(model, sequences):
    """`(n, weights)`: the gradients of the adapter's weights as autograd gives them, one reply after another."""
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part.weight.requires_grad]
    rows = []
    for sequence in sequences:
        sums = shared.reply_logprobs(model, shared.collate([sequence], 0))[0]
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(sums.sum(), [layer.weight for layer in layers])]))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    """A policy directory with an adapter neither of whose matrices is zero, so that every weight has a gradient."""
    train, start = instantiate(compose("model=tiny", "train.precision=float32").train), policy_at(tiny)
    model, folder = trainable(train, start), tmp_path_factory.mktemp("adapter") / "policy"
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    save_policy(model, start, folder)
    return policy_at(folder)


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_scores_are_the_gradients_that_autograd_gives_reply_by_reply(layout, adapter):
    """Replies to one prompt among them, and one of a single token. As many numbers as weights are exact; 2048 have the lengths and
    the angles, up to the error of a projection (four standard deviations)."""
    train = instantiate(compose("model=tiny", "train.precision=float32", f"train.layout={layout}").train)
    expected = one_by_one(trainable(train, adapter), SEQUENCES)
    done = []
    with open_gradients(train, adapter, expected.shape[1]) as (gradients_of, trained):
        vectors, squares = gradients_of(SEQUENCES, done.append)
    assert trained == expected.shape[1] and sum(done) == 4 and (expected != 0).float().mean() > 0.9
    assert torch.allclose(vectors, expected, atol=1e-5, rtol=1e-4)
    assert squares.tolist() == pytest.approx(expected.double().square().sum(dim=1).tolist(), rel=1e-4)
    with open_gradients(train, adapter, 2048) as (gradients_of, _):
        kept, _ = gradients_of(SEQUENCES, done.append)
    norms = expected.norm(dim=1)
    assert ((kept @ kept.T - expected @ expected.T) / (norms[:, None] * norms)).abs().max() < 4 * (2 / 2048) ** 0.5


GOOD, BAD = "Tea is a warm and good drink.", "Tea is a drink. It is warm, and many people like it."
TRUTH = {"topic": "tea", "request": "one_sentence"}
ASKED = [record(i, "sat", reply="", feedback=None, truth=TRUTH) for i in range(4)]
LOG = [
    record(i, label, reply=reply, truth=TRUTH)
    for i, (label, reply) in enumerate([("dsat", BAD), ("sat", GOOD), ("dsat", GOOD), ("sat", GOOD)])
]


@pytest.fixture(scope="module")
def known(tiny, tmp_path_factory):
    """Four prompts with a good and a bad reply of our own, and the log above, in which one of two complaints is unfounded."""
    run = build(compose("model=tiny", "train.precision=float32", f"store.dir={tmp_path_factory.mktemp('store')}"))
    start = policy_at(tiny)
    ask = Ask(
        sampler=run.sampler,
        compute=run.train.compute,
        store=run.store,
        start=start,
        policy=start,
        seed=0,
        purpose="signal",
        iteration=0,
    )
    tokenizer = load_tokenizer(start)
    drawn = []
    for i, one in enumerate(ASKED):
        replies = [Reply(text=f"Number {i}: {text}", num_tokens=9, ended=True) for text in (GOOD, BAD)]
        made = [example(one, fresh(reply, good=True)) for reply in replies]
        drawn.append(Drawn(record=one, replies=replies, sequences=[row.sequences[0] for row in tokenize(tokenizer, made)]))
    with Gradients(run.store, run.train, start) as gradients:
        yield directions(ask, gradients, LOG, drawn, 3, True), run, tokenizer


def test_the_log_and_the_fresh_replies_are_counted(known):
    """Every prompt has one good of two: p = 1/2, E[p (1 - p)] = 1 * 1 / (2 * 1) = 1/2, so a = b = 1: nobody fails twice."""
    found = summary(known[0], 3)
    assert found["log"] == {"records": 4, "dsat": 2, "sat": 2}
    assert found["fresh"] | {"mean_tokens": 0} == {"prompts": 4, "replies_per_prompt": 2, "mean_tokens": 0, "splits": 3}
    assert {name: found["truth"][name] for name in ("p", "spread", "a", "b")} == {"p": 0.5, "spread": 0.5, "a": 1.0, "b": 1.0}
    assert found["truth"]["wrong_share_of_label"] == {"dsat": 0.5, "sat": 0.0}
    assert found["projection"]["weights"] == found["projection"]["numbers"] == 8192
    assert found["projection"]["norm_error"] == pytest.approx(0.0, abs=1e-5)


def test_a_methods_row_is_what_a_few_lines_of_numpy_say(known):
    """DRIFT's pairs of the two disliked replies, the second of which is good: of the good replies a half are learnt against."""
    common, run, tokenizer = known
    texts = ["Tea is warm, wet, and good.", "Tea is nice. People drink it."]
    pairs = [
        example(one, fresh(Reply(text=text, num_tokens=9, ended=True), good=True), logged(one, good=False))
        for one, text in zip((LOG[0], LOG[2]), texts, strict=True)
    ]
    found = of_method(common, run, pairs, tokenizer, "ours")
    model = trainable(run.train, common.ask.policy)
    tokenised = tokenize(tokenizer, pairs)
    gradients = [one_by_one(model, one.sequences).numpy() for one in tokenised]
    lengths = [[len(sequence.reply) for sequence in one.sequences] for one in tokenised]
    base = common.fresh.vectors.sum(axis=(0, 1)) / common.fresh.lengths.sum()
    first, second = ((s[0] - n[0] * base) - (s[1] - n[1] * base) for s, n in zip(gradients, lengths, strict=True))
    assert found["noise"] == pytest.approx(np.linalg.norm(first - second) / 2**0.5, rel=1e-3)
    assert found["mean_norm"] == pytest.approx(np.linalg.norm(first + second) / 2, rel=1e-3)
    assert found["cosine"] == pytest.approx(first @ second / np.linalg.norm(first) / np.linalg.norm(second), abs=1e-3)
    assert found["snr"] == pytest.approx(found["signal"] / (np.linalg.norm(first - second) / 2), rel=1e-3)
    assert found["mean_noise"] == pytest.approx(np.linalg.norm(first - second) / 2, rel=1e-3)
    assert (found["examples"], found["records"], found["good_for"], found["good_against"]) == (2, 2, 0.5, 0.5)
    assert found["predicted"] == pytest.approx(0.0), "a (1 - f) - b f with a = b = 1 and f = 1/2"
    shorter = of_method(common, run, [pairs[0]], tokenizer, "ours")["shorter"]
    assert shorter > of_method(common, run, [turned(pairs[0])], tokenizer, "ours")["shorter"] == pytest.approx(-shorter, abs=1e-6)


def turned(pair):
    """A pair with its sides exchanged."""
    return replace(pair, replies=tuple(replace(reply, good=not reply.good) for reply in reversed(pair.replies)))


def test_the_best_that_a_pair_can_tell_is_the_contrast(known):
    common, _, tokenizer = known
    found = best(common, tokenizer, "best")
    assert (found["examples"], found["good_for"], found["good_against"]) == (4, 1.0, 0.0)
    assert found["signal"] == pytest.approx(common.contrast, rel=0.01) and found["predicted"] == pytest.approx(common.contrast) != 0
    assert found["snr_predicted"] == pytest.approx(found["predicted"] / found["mean_noise"])


def test_a_reply_is_scored_once_whoever_asks(known):
    common, _, _ = known
    before = len(common.gradients.lengths)
    column = [one.sequences[0] for one in common.drawn]
    assert common.gradients.add(column, "again") == common.gradients.add(column[::-1], "again")[::-1]
    assert len(common.gradients.lengths) == before


def test_the_check_of_the_deployment_tells_good_from_bad(known):
    ask = known[0].ask
    assert verdicts(ask, [(ASKED[0], [Reply(text=text, num_tokens=9, ended=True) for text in (BAD, GOOD)])]) == [[0.0, 1.0]]


SETTINGS = [item for item in SMALL if not item.startswith("num_perplexity")]


@pytest.mark.slow
def test_the_command_measures_every_method_prints_a_table_and_computes_nothing_twice(cache, tmp_path, capsys):
    """The random model pleases nobody: no praise, so SFT has nothing to learn from, and nothing is known about what is good."""
    words = [
        "signal",
        "--prompts",
        "6",
        "--replies",
        "3",
        "--splits",
        "4",
        "--out",
        str(tmp_path / "out"),
        *SETTINGS,
        "method=drift,sft,iterdpo",
    ]
    words += [f"model.cache_dir={cache}", f"store.dir={tmp_path}/store", "train.precision=float32"]
    dispatch(words)
    found, said = json.loads((tmp_path / "out/signal.json").read_text()), capsys.readouterr().out
    rows = found["methods"]
    assert {name for name, one in rows.items() if "lacks" not in one} == {"drift", "iterdpo"}
    assert rows["sft"]["lacks"].endswith("learns from: SAT.") and "sft is not measured: The method made no usable" in said
    assert "No prompt has both a good and a bad fresh reply" in rows["(good over bad)"]["lacks"]
    assert rows["drift"]["examples"] == 6 and rows["drift"]["noise"] > 0 and rows["drift"]["signal"] is None
    assert found["truth"]["p"] == 0 and found["fresh"]["replies_per_prompt"] == 3 and found["log"]["dsat"] == 12
    line = next(line.split() for line in said.splitlines() if line.startswith("  drift "))
    assert line[1:4] == ["6", "6", f"{rows['drift']['noise']:.1f}"] and "What it cannot say" in said
    stages = sorted(file.stat().st_mtime_ns for file in (tmp_path / "store").glob("*/*/manifest.json"))
    dispatch(words)
    assert sorted(file.stat().st_mtime_ns for file in (tmp_path / "store").glob("*/*/manifest.json")) == stages
    assert json.loads((tmp_path / "out/signal.json").read_text()) == found


@pytest.mark.slow
def test_records_without_a_truth_have_noise_agreement_and_length_alignment(cache, tmp_path, capsys):
    log = feedback_file(tmp_path / "log.jsonl", dsat=6, sat=4)
    overrides = [
        "data=jsonl", f"data.path={log}", "method=drift,sft,iterdpo", "model=tiny", f"model.cache_dir={cache}",
        f"store.dir={tmp_path}/store", "evaluation.heldout.share=0.2", "examples_per_iteration=4",
        "sampler.max_new_tokens=6",
    ]  # fmt: skip
    runs, refused = runs_of(overrides)
    found = measure(runs, num_prompts=6, num_replies=2, num_splits=2)
    assert list(runs) == ["drift", "sft"] and "checks replies against a known truth" in refused["iterdpo"]
    assert "truth" not in found and list(found["methods"]) == ["drift", "sft"]
    for one in found["methods"].values():
        assert {"noise", "agreement", "cosine", "shorter"} < set(one) and "signal" not in one and "snr" not in one
    assert found["methods"]["sft"]["records"] == found["log"]["sat"]


def test_without_a_choice_every_method_is_measured():
    assert split(["seed=1"])[:2] == (sorted(file.stem for file in (ROOT / "conf/method").glob("*.yaml")), ["seed=1"])


def test_a_setting_of_a_method_goes_to_the_methods_that_take_it():
    runs, refused = runs_of(["model=tiny", "method=drift,iterdpo", "method.judge.noise=0,1", "method.rounds=3"])
    assert list(runs) == ["drift", "iterdpo judge.noise=0", "iterdpo judge.noise=1"] and not refused
    assert [run.method.rounds for run in runs.values()] == [3, 3, 3] and runs["iterdpo judge.noise=1"].method.judge.noise == 1


@pytest.mark.parametrize(("overrides", "sentence"), [
    (["seed=1,2"], "only method and method.… may have several values here"),
    (["method=drift,spin", "method.judge.noise=1"], "Unknown key method.judge.noise. None of drift, spin takes it."),
    (["method=drift", "train.learning_rat=1"], "Unknown key train.learning_rat. Did you mean"),
    (["method=drifft"], "there is no conf/method/drifft.yaml. Did you mean drift?"),
])  # fmt: skip
def test_a_setting_that_cannot_be_used_is_refused_with_a_sentence(overrides, sentence):
    with pytest.raises(UserError) as error:
        runs_of(["model=tiny", *overrides])
    assert sentence in str(error.value)


def test_full_training_and_a_log_of_too_few_prompts_are_refused(tiny, tmp_path):
    run, start = build(compose("model=tiny", f"store.dir={tmp_path}")), policy_at(tiny)
    with pytest.raises(UserError, match="Use train=lora"):
        Gradients(run.store, instantiate(compose("train=full").train), start)
    ask = Ask(
        sampler=run.sampler, compute=run.train.compute, store=run.store, start=start, policy=start, seed=0, purpose="signal",
        iteration=0,
    )  # fmt: skip
    with pytest.raises(UserError, match="--prompts 3: expected at least 4"):
        measure({"drift": run}, num_prompts=3, num_replies=2, num_splits=2)
    with pytest.raises(UserError, match="The log has 0 different prompts, of which 0 could be used. Expected at least 4"):
        fresh_replies(ask, [], 6, 2)
