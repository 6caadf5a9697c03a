"""Held-out evaluation: what so many pairs could show, said before training; replies to held-out prompts; what is in its key."""

import json
import math
from dataclasses import replace

import pytest
from conftest import compose
from hydra.utils import instantiate
from test_methods import record

from drift.alarms import METRIC_OF
from drift.engine.ask import Ask
from drift.evaluation import outlook
from drift.evaluation.heldout import Heldout
from drift.evaluation.stage import evaluation_stage
from drift.model.policy import policy_at
from drift.store import Store


def heldout(**settings):
    return Heldout(**{"share": 0.2, "max_records": 64, "num_sampled_prompts": 3} | settings)


def test_the_smallest_share_is_that_of_the_sign_tests_power():
    """Six: all must move the same way (p = 2/64), which a share s does with s^6 = .8. Five: even that has p = 2/32. Twelve: ten or
    more (p = 2 (66 + 12 + 1) / 4096 = .039, nine would be .146)."""
    assert outlook.smallest_share(6) == pytest.approx(0.8 ** (1 / 6))
    assert outlook.smallest_share(5) is None and outlook.smallest_share(1) is None
    share = outlook.smallest_share(12)
    assert sum(math.comb(12, k) * share**k * (1 - share) ** (12 - k) for k in (10, 11, 12)) == pytest.approx(0.8)
    assert outlook.smallest_share(outlook.enough_for(0.7)) <= 0.7 < outlook.smallest_share(outlook.enough_for(0.7) - 1)


@pytest.mark.parametrize(
    ("pairs", "conversations", "all_pairs", "words"),
    [
        (1, 1, 6, ["1 pair: TOO FEW", "the whole log has 6: evaluation.heldout.share=0.5 would hold out about 3"]),
        (12, 4, 200, ["12 pairs from 4 conversations: TOO FEW", "evaluation.heldout.share=0.25 holds out about that many"]),
        (12, 12, 60, ["12 pairs can show a change (p < .05 with 80% power) if at least 87%", "heldout.share=0.5 would"]),
        (60, 60, 300, ["60 pairs can show a change"]),
    ],
)
def test_the_outlook_warns_of_too_few_pairs_and_names_the_setting_that_helps(pairs, conversations, all_pairs, words):
    lines = outlook.sentences(pairs=pairs, conversations=conversations, all_pairs=all_pairs, share=0.2)
    assert len(lines) == len(words) and all(word in line for word, line in zip(words, lines, strict=True))


def test_the_log_is_counted_before_anything_is_trained():
    """Ten disliked replies of which three have a better one, one of them held out; ten liked ones."""
    log = [record(i, "dsat", revised="better" if i < 3 else None) for i in range(10)] + [record(i, "sat") for i in range(10, 20)]
    lines = heldout().outlook(log[1:9] + log[10:], [log[0], log[9]])
    assert lines[0].startswith("Held out: 2 of 20 records (evaluation.heldout.share=0.2). With")
    assert lines[0].endswith("margin compares: 1.")
    assert lines[1].startswith("1 pair: TOO FEW") and "the whole log has 3" in lines[2]
    assert heldout().outlook(log[3:], log[3:5])[1].startswith("No record of this log has both")
    assert "evaluation.heldout.max_records=2 would use all." in heldout(max_records=1).outlook(log[1:9], [log[0], log[9]])[0]


@pytest.fixture(scope="module")
def evaluated(tiny, tmp_path_factory):
    """`stage(sampler changes, **settings)` on four held-out records of three prompts, with a store of its own."""
    config = compose("model=tiny", "sampler.max_new_tokens=6")
    sampler, train, store = instantiate(config.sampler), instantiate(config.train), None
    store = Store(dir=str(tmp_path_factory.mktemp("store")), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
    log = [record(0, "dsat", revised="better"), record(1, "sat"), record(2, "dsat"), record(2, "sat", reply="the same prompt")]

    def stage(changes, **settings):
        policy, noise = policy_at(tiny), {"seed": 0, "purpose": "evaluation", "iteration": 0}
        ask = Ask(sampler=replace(sampler, **changes), compute=train.compute, store=store, start=policy, policy=policy, **noise)
        return evaluation_stage(ask, heldout(**settings), log, 16)

    return stage


def test_every_policy_answers_the_same_held_out_prompts_and_the_replies_are_measured(evaluated):
    stage = evaluated({})
    rows = [json.loads(line) for line in (stage.path / "replies.jsonl").read_text().splitlines()]
    scores = json.loads((stage.path / "scores.json").read_text())
    metrics = scores["metrics"]
    assert sorted(row["prompt"][-1]["content"] for row in rows) == [f"About tea {i}, no commas." for i in range(3)]  # each once
    assert {row["label"] for row in rows if "tea 0" in row["prompt"][-1]["content"]} == {"dsat"}
    assert metrics["words"]["value"] == pytest.approx(sum(row["words"] for row in rows) / 3)
    assert metrics["missing ends"]["value"] == pytest.approx(sum(not row["ended"] for row in rows) / 3)
    assert all(metrics[name]["value"] is not None for name in METRIC_OF.values())  # what the alarms look at
    assert scores["headline"] == "margin against start (nats)" and set(scores["conversations"].values()) == {"c0", "c1", "c2"}
    assert stage.facts["replies"] == 3


def test_only_an_evaluation_that_samples_depends_on_the_sampler(evaluated):
    assert evaluated({}).hit and not evaluated({"max_new_tokens": 5}).hit
    none = evaluated({}, num_sampled_prompts=0)
    assert not none.hit and evaluated({"max_new_tokens": 4}, num_sampled_prompts=0).hit
    assert not (none.path / "replies.jsonl").exists()
    assert "words" not in json.loads((none.path / "scores.json").read_text())["metrics"]


def test_silent_users_are_neither_held_out_nor_counted():
    log = [record(i, ("dsat", "sat", "silent")[i % 3]) for i in range(90)]
    evaluation = heldout(share=0.5)
    training, held_out = evaluation.separate(log)
    assert len(training) + len(held_out) == 90 and {one.label for one in held_out} == {"dsat", "sat"}
    assert sum(one.label == "silent" for one in training) == 30
    assert "are held out but not used" not in " ".join(evaluation.outlook(training, held_out))
