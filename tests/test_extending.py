"""An objective and a data source from outside the package, one file and one yaml each; SFT and KTO on every kind of data."""

import csv
import json
import subprocess
import sys

import pytest
from conftest import ROOT, command, perform

from drift.errors import UserError

OBJECTIVE = '''
"""The square of what is missing to a margin of one nat."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gap:
    weight: float

    paired = True
    mismatched = False
    hindsight = False

    def loss(self, batch, step):
        pairs = batch.pairs
        gap = 1 - (batch.ratios[pairs.chosen] - batch.ratios[pairs.rejected])
        return (gap.square() * pairs.share).sum(), {"gap": gap.detach().sum()}
'''
SOURCE = '''
"""A line a reply: question, answer, yes or no."""

from dataclasses import dataclass
from pathlib import Path

from drift.intake.conversations import Conversation, by_source
from drift.intake.rows import BadRow, parse_rows


@dataclass(frozen=True, kw_only=True)
class Forms:
    path: str

    name = "forms"
    version = 1
    knows_truth = False
    uses_policy = False
    gives_records = False

    def check(self):
        assert self.files()

    def files(self):
        return [Path(self.path)]

    def conversations(self, file):
        return parse_rows(file, parse, option="forms", path=self.path, fields={"": frozenset({"q", "a", "happy"})}, ignore=[])


def parse(row, file, number):
    if row["happy"] not in ("yes", "no"):
        raise BadRow("happy", "yes or no", row["happy"])
    said = [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]
    opinion = {1: by_source("sat" if row["happy"] == "yes" else "dsat")}
    return Conversation(
        id=f"{file}:{number}", thread=str(number), messages=said, opinions=opinion, revised={}, flags=(), file=file, row=number
    )
'''
YAML = {
    "objective/gap": "gap:\n  _target_: gap.Gap\n  weight: 0.5\n",
    "data/forms": (
        "# @package _global_\ndefaults:\n  - override /evaluation: [heldout]\n\ndata:\n  _target_: forms.Forms\n  path: ???\n"
    ),
}
SMALL = [
    "model=tiny", "iterations=1", "examples_per_iteration=6", "train.examples_per_step=2", "train.tokens_per_batch=500",
    "sampler.max_new_tokens=8", "filters.truncated=keep",
]  # fmt: skip
ON_LOGS = ["evaluation.heldout.share=0.3", "evaluation.heldout.num_sampled_prompts=0"]


def test_an_objective_and_a_source_are_one_file_and_one_yaml_each(cache, tmp_path):
    for module, text in (("gap", OBJECTIVE), ("forms", SOURCE)):
        (tmp_path / f"{module}.py").write_text(text)
    for name, text in YAML.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / f"{name}.yaml").write_text(text)
    rows = [{"q": f"Question {i}?", "a": f"Answer {i}.", "happy": ("no", "yes", "no", "perhaps")[i % 4]} for i in range(40)]
    (tmp_path / "forms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command(
        *SMALL, *ON_LOGS, f"model.cache_dir={cache}", "data=forms", f"data.path={tmp_path}/forms.jsonl", "objective=[gap,nll]",
        f"hydra.searchpath=[file://{tmp_path}/conf]", f"store.dir={tmp_path}/store", f"hydra.run.dir={tmp_path}/run",
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "20 DSAT, 10 SAT" in done.stdout and "10 set aside" in done.stdout, done.stdout
    with open(tmp_path / "run/steps.csv", newline="") as file:
        (first, *_) = csv.DictReader(file)
    assert (float(first["gap"]), float(first["loss_gap"])) == (1.0, 0.5)  # policy and reference agree: the whole nat is missing
    assert "loss_gap" in (tmp_path / "run/report.html").read_text()


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """The settings of each kind of data: the simulated deployment, a log with thumbs, mined records."""
    folder = tmp_path_factory.mktemp("logs")
    conversations = [
        {
            "messages": [
                {"role": "user", "content": f"Question {i}?"},
                {"role": "assistant", "content": f"Answer {i}.", "feedback": ("up", "down")[i % 2]},
            ]
        }
        for i in range(24)
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conversations))
    mined = [sys.executable, "-m", "drift", "mine", str(folder / "chats.jsonl"), "--out", str(folder / "records.jsonl")]
    subprocess.run(mined, cwd=ROOT, check=True, capture_output=True)
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    answered = [json.dumps(row | {"feedback": f"I heard that {i} times."}) for i, row in enumerate(rows)]
    (folder / "answered.jsonl").write_text("\n".join(answered))
    return {
        "deployment": ["data.num_prompts=16", "evaluation.deployment.num_prompts=4", "evaluation.deployment.num_samples=1"],
        "messages": ["data=messages", f"data.path={folder}/chats.jsonl", *ON_LOGS],
        "records": ["data=records", f"data.path={folder}/records.jsonl", *ON_LOGS],
        "answered records": ["data=records", f"data.path={folder}/answered.jsonl", *ON_LOGS],
    }


@pytest.mark.parametrize(
    ("method", "kind"),
    [("sft", "messages"), ("sft", "records"), *(("unpaired", kind) for kind in ("deployment", "messages", "records"))],
)
def test_sft_and_kto_run_on_every_kind_of_data(method, kind, logs, cache, tmp_path):
    """The users of the simulated deployment have nothing to praise in a random model's replies: KTO has complaints alone there."""
    state = perform(
        tmp_path / "run", *SMALL, *logs[kind], f"method={method}", f"model.cache_dir={cache}", f"store.dir={tmp_path}/store"
    )
    steps = [json.loads(line) for line in (tmp_path / "run/iteration_1/steps.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (tmp_path / "run/iteration_1/examples.jsonl").read_text().splitlines()]
    assert {len(row["replies"]) for row in rows} == {1} and not any(row["replies"][0]["fresh"] for row in rows)
    assert state["points"][1]["generated_tokens"] == 0, "no reply was sampled to train on"
    good = {row["replies"][0]["good"] for row in rows}
    if method == "sft":
        assert good == {True} and steps[-1]["chosen_shift"] > 0, "the liked replies got likelier"
    else:
        assert good == ({False} if kind == "deployment" else {True, False})
        assert steps[0]["loss_kto"] == 0.5 and steps[0]["kl"] == 0  # policy and reference agree: 1 - sigmoid(0)


@pytest.mark.parametrize(("kind", "layout"), [("deployment", "padded"), ("answered records", "shared")])
def test_sdpo_runs_where_users_said_something(kind, layout, logs, cache, tmp_path):
    """Unguided prompts are trained on, and the words of both kinds of users are in those of the teacher alone."""
    settings = ["method=sdpo", f"train.layout={layout}", f"model.cache_dir={cache}", f"store.dir={tmp_path}/store"]
    state = perform(tmp_path / "run", *SMALL, *logs[kind], *settings)
    steps = [json.loads(line) for line in (tmp_path / "run/iteration_1/steps.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (tmp_path / "run/iteration_1/examples.jsonl").read_text().splitlines()]
    for row in rows:
        asked, told = row["prompt"][-1]["content"], row["hindsight"][-1]["content"]
        assert len(row["replies"]) == 1 and told.startswith(asked) and row["feedback"] in told and row["feedback"] not in asked
    assert len(rows) == 6 and all(step["advantage_size"] > abs(step["advantage"]) > 0 for step in steps)
    assert state["points"][1]["generated_tokens"] == 0, "no reply was sampled to train on"
    if kind != "deployment":
        assert {row["replies"][0]["good"] for row in rows} == {True, False}


def test_a_log_without_words_is_refused_by_a_method_that_needs_them(logs, cache, tmp_path):
    """Thumbs alone."""
    settings = ["method=sdpo", f"model.cache_dir={cache}", f"store.dir={tmp_path}/store"]
    with pytest.raises(
        UserError,
        match=r"nothing to learn from: it needs what the user said after the reply, in words \(a rating alone is not enough\)",
    ):
        perform(tmp_path / "run", *SMALL, *logs["records"], *settings)


def test_sft_without_a_liked_reply_says_what_it_needs(logs, cache, tmp_path):
    with pytest.raises(UserError, match="it needs SAT, and the 16 records for training are 16 DSAT"):
        perform(
            tmp_path / "run", *SMALL, *logs["deployment"], "method=sft", f"model.cache_dir={cache}", f"store.dir={tmp_path}/store"
        )


def test_a_training_that_changes_nothing_is_no_result(cache, tmp_path):
    """Complaints alone, and a loss that learns from good replies: every gradient is 0."""
    rows = [
        {"messages": [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": "No.", "feedback": "down"}]}
        for i in range(16)
    ]
    (tmp_path / "sad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["data=messages", f"data.path={tmp_path}/sad.jsonl", "method=unpaired", "objective=[nll]"]
    with pytest.raises(UserError, match=r"Nothing was learnt: objective=\[nll\] had no gradient in any of \d steps"):
        perform(tmp_path / "run", *SMALL, *ON_LOGS, *settings, f"model.cache_dir={cache}", f"store.dir={tmp_path}/store")
