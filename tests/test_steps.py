"""What a training step does and what it reports, against numbers by hand: metrics, learning rate, optimisers."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import compose
from hydra.utils import instantiate
from safetensors.torch import load_file
from test_objective import pair

from drift.model.policy import load_model, policy_at
from drift.objective.batch import Batch, Step
from drift.objective.pairwise import metrics
from drift.records import read_jsonl
from drift.score import shared
from drift.score.plan import make_plan, tokenize
from drift.score.reference import Reference, sequence_logprobs
from drift.train.fit import fit
from drift.train.modules import PolicyModule, dynamics, rate_share


def test_the_metrics_of_two_pairs_by_hand():
    """Beta one half. First pair: chosen gained 1 nat, rejected lost 1: rewards .5 and -.5, margin 1. Second: chosen lost 1,
    rejected gained 2: rewards -.5 and 1, margin -1.5. -ln sigmoid(1) = .3132617, -ln sigmoid(-1.5) = 1.7014133; sigmoid(-1) =
    .2689414, sigmoid(1.5) = .8175745. All are sums over pairs. Chosen replies of 2 and 5 tokens moved by 1/2 and -1/5 nats a token;
    these are means over the chosen, or over the rejected replies; the four log-ratios are 1.25 nats off in the mean."""
    logps, ratios = torch.tensor([-6.0, -10.0, -8.0, -9.0]), torch.tensor([1.0, -1.0, -1.0, 2.0])
    batch = Batch(
        logps=logps, reference=logps - ratios, lengths=torch.tensor([2, 5, 4, 3]), good=(True, True, False, False),
        example=(0, 1, 0, 1), tokens=torch.zeros(14), hindsight=None,
    )  # fmt: skip
    assert {name: float(value) for name, value in metrics(batch, 0.5).items()} == pytest.approx({
        "dpo": 0.3132617 + 1.7014133, "reward_chosen": 0.0, "reward_rejected": 0.5, "margin": -0.5, "accuracy": 1,
        "sigma": 0.2689414 + 0.8175745,
    }, abs=1e-6)  # fmt: skip
    totals = Step(num_examples=2, num_good=2, num_bad=2, good_tokens=7, bad_tokens=7, kl=None)
    assert {name: float(value) for name, value in dynamics(batch, totals).items()} == pytest.approx({
        "logp_chosen": -8.0, "logp_rejected": -8.5, "chosen_shift": 0.15, "chosen_tokens": 3.5, "rejected_tokens": 3.5,
        "mean_abs_ratio": 1.25,
    }, abs=1e-6)  # fmt: skip


def test_a_step_without_a_good_reply_has_no_metrics_of_good_replies():
    batch = Batch(
        logps=torch.tensor([-4.0]),
        reference=torch.tensor([-3.0]),
        lengths=torch.tensor([2]),
        good=(False,),
        example=(0,),
        tokens=torch.tensor([-3.0, -1.0]),
        hindsight=None,
    )
    found = dynamics(batch, Step(num_examples=1, num_good=0, num_bad=1, good_tokens=0, bad_tokens=2, kl=None))
    assert {name: float(value) for name, value in found.items()} == {
        "logp_rejected": -4.0,
        "rejected_tokens": 2.0,
        "mean_abs_ratio": 1.0,
    }


def rates(num_steps, warmup_share, final_share):
    return [rate_share(step, num_steps, warmup_share, final_share) for step in range(num_steps)]


def test_the_learning_rate_rises_and_falls_linearly():
    """Ten steps, two of them warm-up: 1/3, 2/3, then the whole rate, of which 1/16 goes at each of the eight steps left: one half
    would come next."""
    assert rates(10, 0.2, 0.5) == pytest.approx([1 / 3, 2 / 3] + [1 - i / 16 for i in range(8)])
    assert rate_share(10, 10, 0.2, 0.5) == rate_share(99, 10, 0.2, 0.5) == 0.5


@pytest.mark.parametrize(
    ("num_steps", "warmup_share", "final_share", "expected"),
    [
        (4, 0.0, 1.0, [1, 1, 1, 1]),
        (4, 0.0, 0.0, [1, 0.75, 0.5, 0.25]),
        (4, 0.01, 1.0, [0.5, 1, 1, 1]),  # a share that is none yet: one step
        (4, 0.99, 1.0, [0.2, 0.4, 0.6, 0.8]),
        (1, 0.0, 0.0, [1]),
        (1, 0.25, 0.5, [0.5]),
        (2, 0.25, 0.5, [0.5, 1]),
    ],
)
def test_the_learning_rate_at_edge_cases(num_steps, warmup_share, final_share, expected):
    assert rates(num_steps, warmup_share, final_share) == pytest.approx(expected)


def two_steps(*overrides):
    """What is left of a weight of 10 after gradients of 1 and 3, as the module sets its optimiser and its rates."""
    train = replace(instantiate(compose(*overrides).train), gradient_checkpointing=False)
    model = torch.nn.Linear(1, 1, bias=False)
    module = PolicyModule(model, train, {}, shared, num_steps=2, check_start=False, on_step=None)
    torch.nn.init.constant_(model.weight, 10.0)
    made = module.configure_optimizers()
    for gradient in (1.0, 3.0):
        model.weight.grad = torch.full((1, 1), gradient)
        made["optimizer"].step()
        made["lr_scheduler"].step()
    return model.weight.item()


def test_adamw_has_betas_of_nine_tenths_and_nineteen_twentieths_and_no_weight_decay():
    """First step: 1 / 1. Second: m = .9 * .1 + .1 * 3 = .39 and v = .95 * .05 + .05 * 9 = .4975, corrected .39 / .19 and
    .4975 / .0975: 2.0526316 / 2.2588855 = .9086922. At a rate of 0.01, halved at the first of two steps (warm-up):
    .005 + .00908692. A decay of 0.01 would take .0015 more."""
    found = two_steps("train=lora", "train.learning_rate=0.01", "train.warmup_share=0.25", "train.final_rate_share=0.5")
    assert found == pytest.approx(10 - 0.005 - 0.009086922, abs=2e-6)


def test_rmsprop_is_torchs_with_a_hundredth_of_the_new_square_and_no_momentum():
    """First: 1 / sqrt(.01) = 10. Second: v = .99 * .01 + .01 * 9 = .0999, 3 / sqrt(v) = 9.4915781. At a rate of 0.01, and half of
    it, as it falls to nothing."""
    found = two_steps("train=full", "train.learning_rate=0.01", "train.warmup_share=0", "train.final_rate_share=0")
    assert found == pytest.approx(10 - 0.01 * 10 - 0.005 * 3 / math.sqrt(0.0999), abs=2e-6)


TEXTS = ("yes", "no, I think", "a much longer reply than the others are", "?")
PAIRS = [pair(i % 5, chosen=TEXTS[i % 4] + f" {i}", rejected=TEXTS[(i + 1 + i // 4) % 4], ended=i % 3 > 0) for i in range(16)]
NUM_BATCHES = {  # of two steps of eight pairs, by layout and budget of tokens
    "one batch of eight pairs": ("shared", 10_000, 2), "eight batches of one": ("shared", 1, 16), "what fits": ("shared", 400, 5),
    "one, padded": ("padded", 10_000, 2),
}  # fmt: skip


def steps_of(tokenizer, layout, tokens_per_batch):
    how = {"tokens_per_batch": tokens_per_batch, "example_order": "shuffled", "seed": 0, "longest_mismatched": None}
    return make_plan(tokenize(tokenizer, PAIRS), layout=layout, examples_per_step=8, **how)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_step_does_not_depend_on_its_batches_or_its_layout(adapter, tiny, tokenizer, tmp_path):
    """Eight pairs at once are eight times one pair, and whatever fits a budget of tokens. Float32: metrics within 1e-4, weights as
    far apart as 1e-3 of the way that training moved them (Adam gives a gradient that is rounding alone a whole step)."""
    overrides = [f"train={adapter}", "train.precision=float32", "train.gradient_checkpointing=false"]
    others = ["train.learning_rate=1e-3", "train.optimizer=adamw", "train.frozen_cache_gib=0"]
    config, start = compose(*overrides, *others), policy_at(tiny)
    train, objectives = instantiate(config.train), instantiate(config.objective, _convert_="all")
    plans = {how: steps_of(tokenizer, *ask[:2]) for how, ask in NUM_BATCHES.items()}
    assert {how: len(one.batches) for how, one in plans.items()} == {how: ask[2] for how, ask in NUM_BATCHES.items()}
    rows = plans["one, padded"].sequences(range(16))
    sums = sequence_logprobs(replace(train, layout="padded").compute, start, rows, "reference")
    replies = [list(both) for both in zip(sums[:16], sums[16:], strict=True)]  # the plans have their pairs in one order
    values = Reference(replies=replies, mismatched=[])
    found = {}
    for how, planned in plans.items():
        places = [tmp_path / how / name for name in ("frozen", "progress", "output")]
        for place in places:
            place.mkdir(parents=True)
        fit(train, objectives, start, planned, values, *places, same=False, epochs=1, on_step=lambda history: None)
        (weights,) = (places[2] / "policy").glob("*.safetensors")
        found[how] = read_jsonl(places[2] / "steps.jsonl"), load_file(weights)
    expected, weights = found.pop("one batch of eight pairs")
    before = load_model(start, torch.float32).state_dict()
    moved = {name: weights[name] - before.get(name, 0) for name in weights if "lora_A" not in name}  # B begins at 0
    assert norm(moved) > 0.01
    for how, (steps, others) in found.items():
        steps[0]["accuracy"] = expected[0]["accuracy"]  # of margins that are rounding alone
        for one, other in zip(steps, expected, strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-5), how
        assert norm({name: weights[name] - others[name] for name in weights}) <= 1e-3 * norm(moved), how


def norm(tensors):
    return float(sum(tensor.square().sum() for tensor in tensors.values())) ** 0.5
