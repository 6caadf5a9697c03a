"""Numbers that are none (nan, infinite) end a run where they come up, with the step or the policy and what to do."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import compose, feedback_file, perform
from hydra.utils import instantiate
from test_alarms import alarms
from test_objective import pair
from test_report import state, study, with_items
from test_sampler import draw_all

from drift.errors import UserError
from drift.evaluation.metric import metric
from drift.model.policy import policy_at
from drift.objective.dpo import Dpo
from drift.objective.nll import Nll
from drift.report import verdict
from drift.report.compare import compare
from drift.report.members import groups
from drift.sampler.choose import choose
from drift.score.plan import make_plan, tokenize
from drift.score.reference import Reference, check_start, recheck, sequence_logprobs
from drift.train.fit import fit

NAN, INF = float("nan"), float("inf")
OBJECTIVES = {"dpo": Dpo(weight=1.0, beta=0.1), "nll": Nll(weight=0.1)}


@pytest.fixture(scope="module")
def train():
    composed = instantiate(compose("train.precision=float32", "train.warmup_share=0", "train.checkpoint_every_steps=1").train)
    return replace(composed, adapter=replace(composed.adapter, rank=2))


@pytest.fixture(scope="module")
def planned(tokenizer):
    """Three steps of one pair each."""
    settings = {"layout": "shared", "examples_per_step": 1, "tokens_per_batch": 500, "example_order": "shuffled", "seed": 0}
    settings |= {"longest_mismatched": None}
    return make_plan(tokenize(tokenizer, [pair(i, "yes", "no") for i in range(3)]), **settings)


@pytest.fixture(scope="module")
def reference(train, planned, tiny):
    """Its log-probs of these pairs."""
    rows = planned.sequences(range(3))
    sums = sequence_logprobs(replace(train, tokens_per_batch=10_000).compute, policy_at(tiny), rows, "test")
    return Reference(replies=[list(both) for both in zip(sums[:3], sums[3:], strict=True)], mismatched=[])


@pytest.fixture
def values(reference):
    """A copy of them, to be spoilt."""
    return copy.deepcopy(reference)


@pytest.fixture
def broken(qwen2, tmp_path):
    """A model of which one weight is nan."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(qwen2, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = NAN
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("ratio", [NAN, INF, 1e-4])
def test_the_step_zero_check_refuses_nan_inf_and_a_difference(ratio):
    with pytest.raises(RuntimeError, match="Step-0 check failed"):
        check_start(ratio)


def test_the_reference_check_refuses_another_reference_and_nan(train, planned, values, tiny):
    """The pair of the first step, off by 0.0002 nats, twice the tolerance; or not a number. Later pairs are not looked at."""
    first = planned.steps[0][0][0]
    recheck(train.compute, policy_at(tiny), planned, values)
    for wrong in (values.replies[first][1] + 2e-4, NAN):
        other = copy.deepcopy(values)
        other.replies[first][1] = wrong
        with pytest.raises(RuntimeError, match="Reference check failed"):
            recheck(train.compute, policy_at(tiny), planned, other)


@pytest.mark.parametrize("name", ["learning_rate", "max_grad_norm", "rate_decay", "warmup_share", "final_rate_share"])
def test_no_setting_of_training_is_nan(train, name):
    with pytest.raises(UserError, match=f"train: expected.* {name}"):
        replace(train, **{name: NAN}).check()


def trained(train, planned, values, tiny, folder):
    places = {"frozen": folder / "none", "progress": folder / "progress", "output": folder / "output"}
    for place in places.values():
        place.mkdir()
    settings = {"same": False, "epochs": 1, "on_step": lambda history: None}
    return fit(replace(train, frozen_cache_gib=0), OBJECTIVES, policy_at(tiny), planned, values, **places, **settings)


@pytest.mark.parametrize("wrong", [NAN, INF])
def test_a_loss_that_is_not_finite_stops_training_and_its_step_is_not_kept(train, planned, values, tiny, tmp_path, wrong):
    """The second step's pair has such a reference. The checkpoint is that of the first step, with weights that are numbers."""
    values.replies[planned.steps[1][0][0]][0] = wrong
    with pytest.raises(
        UserError, match="stopped at step 2 of 3: loss is .* not a finite number.*Lower train.learning_rate .0.0008"
    ):
        trained(train, planned, values, tiny, tmp_path)
    kept = torch.load(tmp_path / "progress/last.ckpt", weights_only=True)
    assert [row["step"] for row in kept["history"]] == [1] and all(torch.isfinite(t).all() for t in kept["state_dict"].values())
    assert not list((tmp_path / "output").iterdir())


def test_nan_in_the_first_step_is_not_blamed_on_the_learning_rate(train, planned, values, tiny, tmp_path):
    values.replies[planned.steps[0][0][0]][0] = NAN
    with pytest.raises(UserError, match="at step 1 of 3.*Check the weights that training starts from, or compute in"):
        trained(train, planned, values, tiny, tmp_path)
    assert not (tmp_path / "progress/last.ckpt").exists()


@pytest.mark.parametrize("every", [1, 9])
def test_an_update_that_breaks_the_weights_is_saved_neither_in_a_checkpoint_nor_as_a_policy(
    train, planned, values, tiny, tmp_path, every
):
    """A rate beyond float32 in the last step, whose loss and gradient are numbers still."""
    last = replace(planned, steps=planned.steps[:1])
    with pytest.raises(UserError, match="stopped after step 1 of 1: the largest weight of .*lora_.* is .*Lower train.learn"):
        trained(replace(train, learning_rate=1e39, checkpoint_every_steps=every), last, values, tiny, tmp_path)
    assert not (tmp_path / "progress/last.ckpt").exists() and not list((tmp_path / "output").iterdir())


def test_a_model_with_a_broken_weight_ends_a_run_before_anything_is_trained(broken, tmp_path):
    log = feedback_file(tmp_path / "log.jsonl")
    settings = ["data=jsonl", f"data.path={log}", f"store.dir={tmp_path}/store", "evaluation.heldout.share=0.3", "iterations=1"]
    with pytest.raises(UserError, match=f"logits are not finite.*{broken}.*check its weights for nan"):
        perform(tmp_path / "run", "model=pretrained", f"model.path={broken}", *settings)
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    assert state["points"] == []


def test_a_model_with_a_broken_weight_gives_neither_replies_nor_log_probs(broken, train, planned, tmp_path):
    for temperature in (0.0, 1.0):
        with pytest.raises(UserError, match=f"Sampling: the model's logits are not finite.*{broken}.*sampler.precision=float32"):
            draw_all(broken, tmp_path / str(temperature), 4, count=2, temperature=temperature)
    assert not list((tmp_path / "0.0").glob("replies/*/manifest.json"))
    with pytest.raises(UserError, match=f"Held-out replies: the log-prob of reply 1 is nan.*{broken}.*train.precision=float32"):
        sequence_logprobs(train.compute, policy_at(broken), planned.sequences([0]), "held-out replies")


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.5)])
@pytest.mark.parametrize("wrong", [NAN, INF])
def test_no_token_is_chosen_from_logits_that_are_not_finite(temperature, top_p, wrong):
    """A logit of -inf is a token that can't come, and fine."""
    logits, uniforms = torch.zeros(3, 700), torch.full((3,), 0.5)
    logits[1, :600] = -INF
    assert choose(logits, uniforms, temperature, top_p)[1] >= 600
    logits[2, 650] = wrong
    with pytest.raises(FloatingPointError):
        choose(logits, uniforms, temperature, top_p)


@pytest.mark.parametrize("name", ["words", "distinct-2", "missing ends", "perplexity under start"])
@pytest.mark.parametrize("side", ["now", "start"])
def test_a_nan_score_raises_the_alarm(name, side):
    watching = alarms(length_ratio=2.0, distinct2_share=0.8, missing_ends=0.3, perplexity_ratio=2.0)
    values = {"now": {name: 0.5}, "start": {name: 0.5}}
    assert watching.in_evaluation(values["now"], values["start"]) == {}
    values[side] = {name: NAN}
    assert len(watching.in_evaluation(values["now"], values["start"])) == 1


def test_a_score_that_is_not_finite_is_never_written():
    assert metric({"a": 1.0, "b": 2.0})["value"] == 1.5 and metric(None)["value"] is None
    for wrong in ({"a": 1.0, "b": NAN}, {"a": INF}):
        with pytest.raises(UserError, match="Evaluation: the score of . is"):
            metric(wrong)
    with pytest.raises(UserError, match="Evaluation: the score is nan"):
        metric(None, value=NAN)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_report_draws_no_conclusion_from_nan(seeds, tmp_path):
    """One prompt's score of the trained policy is nan, in one seed."""
    found = [state(label, seed, gain) for label, gain in (("one", 0.2), ("two", 0.1)) for seed in range(seeds)]
    with_items(found[0].points[1], lambda items: items | {"3": NAN})
    grouped = groups(found)
    compared = compare(grouped)
    assert [this.verdict for this in compared] == ["not a number: a policy is broken"]
    assert verdict.between(compared)[0].startswith("Between groups: one and two: not a number: a policy is broken.")
    said = verdict.against_start(grouped)
    assert "utility is not a number: the policy is broken" in said[0] and "number" not in said[1]
    assert "not a number: a policy is broken" in study(tmp_path, found)
