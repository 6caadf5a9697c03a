"""The teacher's numbers, from the reference pass to the trained policy: right token by token, and the same after a kill."""

import json
from dataclasses import replace
from itertools import count

import pytest
import torch
from conftest import compose
from hydra.utils import instantiate

from drift.method.sdpo import Sdpo
from drift.model.policy import load_model, policy_at
from drift.records import read_jsonl
from drift.score.plan import make_plan, tokenize
from drift.score.reference import reference_stage
from drift.store import Store
from drift.train.fit import train_stage
from drift.train.frozen import num_frozen

REPLIES = ("Yes.", "I don't know that", "A much longer reply than the others are.", "?", "No, never.")
SETTINGS = (
    "method=sdpo", "train.precision=float32", "train.checkpoint_every_steps=1", "train.learning_rate=5e-3",
    "train.tokens_per_batch=200", "objective.sdpo.ignored_tokens=0",
)  # fmt: skip


@pytest.fixture
def examples(log_records):
    return list(Sdpo(rounds=1, context=" So: {feedback}").make_examples(log_records, None))


@pytest.fixture
def log_records():
    from test_methods import record

    return [record(i, "dsat" if i % 2 else "sat", reply=text, feedback=f"Hm, {i}.") for i, text in enumerate(REPLIES)]


def planned(tokenizer, examples, layout):
    how = {"examples_per_step": 2, "tokens_per_batch": 200, "example_order": "shuffled", "seed": 0, "longest_mismatched": None}
    return make_plan(tokenize(tokenizer, examples), layout=layout, **how)


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_the_reference_pass_scores_every_reply_token_after_the_prompt_with_the_feedback(
    layout, examples, tiny, tokenizer, tmp_path
):
    """Against one unpadded row at a time. The columns stand by example of the plan, which has an order of its own."""
    start, plan = policy_at(tiny), planned(tokenizer, examples, layout)
    compute = instantiate(compose(*SETTINGS, f"train.layout={layout}").train).compute
    store = Store(dir=str(tmp_path), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
    scored = reference_stage(store, compute, start, plan, layers=0)
    found = json.loads((scored.path / "reference.json").read_text())["hindsight"]
    model = load_model(start, torch.float32)
    for example, (values,) in zip(plan.examples, found, strict=True):
        (row,) = example.hindsight
        assert "So: Hm, " in tokenizer.decode(row.prompt) and row.reply == example.sequences[0].reply
        with torch.no_grad():
            logp = model(torch.tensor([[*row.prompt, *row.reply]])).logits.log_softmax(-1)[0, len(row.prompt) - 1 :]
        assert values == pytest.approx([logp[k, token].item() for k, token in enumerate(row.reply)], abs=1e-4)


class Killed(Exception):
    pass


def test_training_towards_the_teacher_is_the_same_from_kept_outputs_and_after_kills(examples, tiny, tokenizer, tmp_path):
    """The run that starts from the outputs of the frozen layer is killed after every second step. The policy gets nearer to the
    teacher: the three steps of an epoch have all examples."""
    config, start, plan = compose(*SETTINGS), policy_at(tiny), planned(tokenizer, examples, "shared")
    objectives = instantiate(config.objective, _convert_="all")
    results = []
    for gib, steps_until_killed in ((0.0, 99), (1.0, 2)):
        train = replace(instantiate(config.train), frozen_cache_gib=gib)
        store = Store(dir=str(tmp_path / f"{gib}"), strict=False, verify=False, lease_seconds=60.0, keep_policies="all")
        layers = num_frozen(train, start, plan)
        scored = reference_stage(store, train.compute, start, plan, layers=layers)
        assert layers == int(gib) and (scored.path / "frozen").exists() == bool(gib)
        results.append(until_done(steps_until_killed, store, train, objectives, start, start, plan, scored))
    (plain, plain_weights, once), (resumed, resumed_weights, kills) = results
    assert (once, kills) == (0, 4), "nine steps, two at a time"
    assert plain == resumed and plain_weights == resumed_weights
    first, last = (sum(step["advantage_size"] for step in epoch) for epoch in (plain[:3], plain[-3:]))
    assert last < 0.6 * first


def until_done(steps, *stage):
    """(the lines of steps.jsonl, the adapter's bytes, the number of kills) of a training that is killed after so many steps."""
    for kills in count():
        last = (kills + 1) * steps

        def on_step(history, last=last):
            if len(history) > last:
                raise Killed

        try:
            done = train_stage(*stage, epochs=3, on_step=on_step)
            return read_jsonl(done.path / "steps.jsonl"), (done.path / "policy/adapter_model.safetensors").read_bytes(), kills
        except Killed:
            continue
    raise AssertionError
