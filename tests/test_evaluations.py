"""Several evaluations in a run; an evaluation, a judge and a sampler from outside the package, one file and one yaml each."""

import json

import pytest
from conftest import SMALL, command, compose, feedback_file, perform

from drift.config import build

EVALUATION = '''
"""How long replies to two questions are, one of which the log holds too."""

from collections.abc import Sequence
from dataclasses import dataclass

from drift.evaluation.metric import Measured, metric


@dataclass(frozen=True)
class Question:
    key: str

    @property
    def prompt(self):
        return [{"role": "user", "content": self.key}]


@dataclass(frozen=True, kw_only=True)
class Length:
    questions: list[str]

    meanings = {"letters": "letters a reply"}
    noise_seed = 7
    samples = True

    def prompts(self):
        return [Question(text).prompt for text in self.questions]

    def separate(self, records):
        return records, []

    def outlook(self, records, held_out):
        return [f"{len(self.questions)} questions."]

    def key(self, held_out):
        return {"questions": self.questions}

    def measure(self, ask, held_out):
        drawn = list(ask.draw([Question(t) for t in self.questions], lambda q: [q.prompt], label="answers"))
        letters = metric({question.key: len(reply.text) for question, (reply,) in drawn})
        rows = [{"prompt": question.prompt, "reply": reply.text, "ended": reply.ended} for question, (reply,) in drawn]
        return Measured(headline="letters", metrics={"letters": letters}, drawn=drawn, rows=rows, conversations={})
'''
JUDGE = '''
"""Likes few letters."""

from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Brief:
    group_size: int

    needs_truth = False
    label = "brevity"

    @contextmanager
    def open(self):
        yield lambda groups: [[-float(len(reply.text)) for reply in replies] for _, replies in groups]
'''
SAMPLER = '''
"""Says words by a seed a reply, as a server would that has no more to offer."""

import random
from contextlib import contextmanager
from dataclasses import dataclass

from drift.records import Reply


@dataclass(frozen=True, kw_only=True)
class Dice:
    max_new_tokens: int
    max_prompt_tokens: int
    group_size: int

    @contextmanager
    def open(self, policy):
        def generate(prompts, noise, tick):
            drawn = []
            for one in noise:
                dice = random.Random(one.as_seed())
                words = [dice.choice(["tea", "coffee", "is", "good", "hot"]) for _ in range(dice.randint(3, self.max_new_tokens))]
                drawn.append(Reply(text=" ".join(words), num_tokens=len(words), ended=True))
            tick(1.0)
            return drawn

        yield generate
'''
YAML = {
    "evaluation/length": "length:\n  _target_: length.Length\n  questions: ['Question 3?', 'Which land does nobody know?']\n",
    "judge/brief": "# @package method.judge\n_target_: brief.Brief\ngroup_size: 3\n",
    "sampler/dice": "_target_: dice.Dice\nmax_new_tokens: 8\nmax_prompt_tokens: 512\ngroup_size: 8\n",
}


@pytest.fixture(scope="module")
def outside(cache, tmp_path_factory):
    """A run whose evaluation, judge and sampler lie in a folder of their own, found through Python's and Hydra's search paths."""
    folder = tmp_path_factory.mktemp("outside")
    for module, text in (("length", EVALUATION), ("brief", JUDGE), ("dice", SAMPLER)):
        (folder / f"{module}.py").write_text(text)
    for name, text in YAML.items():
        (folder / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "conf" / f"{name}.yaml").write_text(text)
    log = feedback_file(folder / "log.jsonl")
    done = command(
        "model=tiny", f"model.cache_dir={cache}", "data=jsonl", f"data.path={log}", "method=iterdpo", "judge=brief", "sampler=dice",
        "evaluation=[length,heldout]", "evaluation.heldout.num_sampled_prompts=0", "evaluation.heldout.share=0.3",
        "iterations=1", "examples_per_iteration=6", "train.examples_per_step=2", "train.tokens_per_batch=500",
        f"hydra.searchpath=[file://{folder}/conf]", f"store.dir={folder}/store", f"hydra.run.dir={folder}/run",
        PYTHONPATH=str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "run"


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_evaluation_from_outside_is_the_headline_and_gets_what_every_sampled_one_has(outside):
    state = json.loads((outside / "run.json").read_text())
    for point, place in zip(state["points"], ("iteration_0", "iteration_1"), strict=True):
        assert list(point["scores"]) == ["length", "heldout"] and point["scores"]["length"]["headline"] == "letters"
        rows = read(outside / place / "length/replies.jsonl")
        assert [row["prompt"][0]["content"] for row in rows] == ["Question 3?", "Which land does nobody know?"]
        metrics = point["scores"]["length"]["metrics"]
        assert metrics["letters"]["value"] == sum(len(row["reply"]) for row in rows) / 2
        assert metrics["words"]["value"] == sum(len(row["reply"].split()) for row in rows) / 2
        assert metrics["copies"]["value"] == metrics["missing ends"]["value"] == 0 < metrics["perplexity under start"]["value"]
        assert "words" not in point["scores"]["heldout"]["metrics"]
        assert point["scores"] == {
            name: json.loads((outside / place / name / "scores.json").read_text()) for name in ("length", "heldout")
        }


def test_training_records_whose_prompts_it_asks_are_leaks(outside):
    records = read(outside / "records.jsonl")
    assert sum(record["prompt"][-1]["content"] == "Question 3?" for record in records) == 1
    removed = {row["record"] for row in read(outside / "leakage.jsonl") if row["found"] == "equal"}
    assert {record["id"] for record in records if record["prompt"][-1]["content"] == "Question 3?"} <= removed
    assert all(pair["prompt"][-1]["content"] != "Question 3?" for pair in read(outside / "iteration_1/examples.jsonl"))


def test_a_judge_and_a_sampler_from_outside_make_the_pairs(outside):
    state = json.loads((outside / "run.json").read_text())
    pairs = [[reply["text"] for reply in row["replies"]] for row in read(outside / "iteration_1/examples.jsonl")]
    assert len(pairs) == 6 and all(len(chosen) < len(rejected) for chosen, rejected in pairs)
    assert {*" ".join(chosen for chosen, _ in pairs).split()} <= {"tea", "coffee", "is", "good", "hot"}
    assert state["notes"]["judge"] == "brevity" and sum(stage["name"] == "judge" for stage in state["stages"]) >= 2


def test_two_evaluations_measure_one_run_and_the_first_is_its_headline(cache, tmp_path):
    """Held-out records of the simulated log, then the utility; alarms look at the replies of both."""
    log = ["evaluation=[heldout,deployment]", "evaluation.heldout.share=0.3", "evaluation.heldout.num_sampled_prompts=2"]
    log += ["iterations=1", "examples_per_iteration=4", "filters.truncated=keep", "alarms.length_ratio=1.0001"]
    state = perform(tmp_path / "run", *SMALL, *log, f"model.cache_dir={cache}", f"store.dir={tmp_path}/store")
    start, after = (point["scores"] for point in state["points"])
    assert list(start) == list(after) == ["heldout", "deployment"]
    assert start["deployment"]["headline"] == "utility" and "log-prob" in start["heldout"]["headline"]
    assert (
        len(start["deployment"]["metrics"]["words"]["per_item"]) == 6 and len(start["heldout"]["metrics"]["words"]["per_item"]) == 2
    )
    held = set(start["heldout"]["conversations"].values())
    records = {record["id"]: record for record in read(tmp_path / "run/records.jsonl")}
    trained = {records[pair["record"]]["conversation"] for pair in read(tmp_path / "run/iteration_1/examples.jsonl")}
    assert held and trained and not held & trained
    for name in ("heldout", "deployment"):
        assert (tmp_path / f"run/iteration_1/{name}/replies.jsonl").is_file()
    (alarm,) = [one for one in state["alarms"] if one["name"] == "length_ratio"]
    assert "heldout" in alarm["text"] and "deployment" in alarm["text"]


@pytest.mark.parametrize("chosen", ["heldout", "[heldout]", "[heldout,deployment]", "[deployment,heldout]"])
def test_evaluations_are_an_ordered_list_and_a_single_one_needs_no_brackets(chosen):
    run = build(compose("model=tiny", f"evaluation={chosen}"))
    assert list(run.evaluation) == chosen.strip("[]").split(",")


def test_each_evaluation_holds_out_records_that_the_ones_before_it_left(tiny, tmp_path):
    """Two of one kind with other shares, through the loop's own page: no record in two hands."""
    from drift.journal import Journal
    from drift.loop import Loop
    from drift.model.policy import load_tokenizer, policy_at

    log = feedback_file(tmp_path / "log.jsonl", dsat=20, sat=20)
    second = "+evaluation.second={_target_:drift.evaluation.heldout.Heldout,share:0.6,max_records:9,num_sampled_prompts:0}"
    run = build(compose("model=tiny", "data=jsonl", f"data.path={log}", second, f"store.dir={tmp_path}/s", "intake.leakage=keep"))
    start = policy_at(tiny)
    journal = Journal(tmp_path, {"method": "x", "seed": "0"}, {}, run.store, run.logger, run.alarms)
    records, held_out = Loop(run=run, journal=journal, start=start, tokenizer=load_tokenizer(start)).collect_feedback(1, start)
    hands = [records, held_out["heldout"], held_out["second"]]
    assert all(hands) and sum(map(len, hands)) == 40 == len({record.id for hand in hands for record in hand})
