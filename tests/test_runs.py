"""Whole runs on the tiny model: every method on a log, one process or the real command line, alone or in a sweep."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, command, feedback_file, foreign, perform

from drift.errors import UserError
from drift.model.tiny import Tiny
from drift.report import samples
from drift.report.foreign import Reader

LOG_SETTINGS = [
    "model=tiny", "data=jsonl", "iterations=2", "examples_per_iteration=6", "train.examples_per_step=2",
    "train.tokens_per_batch=500",
    "sampler.max_new_tokens=8", "sampler.group_size=8", "filters.truncated=keep", "evaluation.heldout.share=0.3",
    "evaluation.heldout.num_sampled_prompts=0",
]  # fmt: skip


def settings(cache, log, store):
    return [*LOG_SETTINGS, f"model.cache_dir={cache}", f"data.path={log}", f"store.dir={store}"]


def artefacts(folder):
    """What two equal runs have in common: every byte of pairs, policies, metrics and scores."""
    found = {}
    for file in sorted(Path(folder).rglob("*")):
        kept = file.suffix in (".jsonl", ".csv", ".safetensors") or file.name == "scores.json"
        if file.is_file() and kept:
            found[str(file.relative_to(folder))] = file.read_bytes()
    for policy in sorted(Path(folder).glob("iteration_*/policy")):
        found[f"{policy.parent.name}/policy"] = (policy / "adapter_model.safetensors").read_bytes()
    return found


@pytest.mark.slow
def test_a_sweep_equals_its_members_run_alone_and_shares_their_stages(cache, tmp_path):
    """`-m method=drift,spin` through the real command line, against each method alone with a store of its own."""
    log = feedback_file(tmp_path / "log.jsonl", dsat=12, sat=12)
    common = settings(cache, log, tmp_path / "store")
    done = command("-m", "method=drift,spin", *common, f"hydra.sweep.dir={tmp_path}/study", "hydra.sweep.subdir=${method._target_}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == "" and foreign(done.stdout) == []
    names = {"drift": "drift.method.drift.Drift", "spin": "drift.method.spin.Spin"}
    for method, target in names.items():
        alone = tmp_path / f"alone_{method}"
        perform(alone, *settings(cache, log, tmp_path / f"store_{method}"), f"method={method}")
        one, other = artefacts(alone), artefacts(tmp_path / "study" / target)
        assert one.keys() == other.keys() and len(one) >= 12
        assert [name for name in one if one[name] != other[name]] == []
    second = json.loads((tmp_path / "study" / names["spin"] / "run.json").read_text())
    shared = {stage["name"] for stage in second["stages"] if stage["hit"]}
    assert {"feedback", "evaluate"} <= shared  # the log and the start model's evaluation: once for all members
    text = (tmp_path / "study" / "report.html").read_text()
    assert "drift" in text and "spin" in text and done.stdout.rstrip().splitlines()[-1].startswith("Report: ")


@pytest.mark.slow
def test_the_same_run_again_computes_nothing(cache, tmp_path):
    overrides = [
        *SMALL,
        f"model.cache_dir={cache}",
        f"store.dir={tmp_path}/store",
        "filters.truncated=keep",
        "data.second_tries=true",
    ]
    first, again = perform(tmp_path / "one", *overrides), perform(tmp_path / "two", *overrides)
    assert not all(stage["hit"] for stage in first["stages"]) and all(stage["hit"] for stage in again["stages"])
    assert artefacts(tmp_path / "one") == artefacts(tmp_path / "two")


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=drift", "reference=start"],
        ["method=spin", "previous_share=0.5", "train=full", "train.learning_rate=1e-4", "train.gradient_checkpointing=false"],
        ["method=drift", "train=full", "train.learning_rate=1e-4", "train.precision=bfloat16"],
        ["method=drift", "train.precision=bfloat16", "sampler.precision=bfloat16", "method.guidance.share=1"],
    ],
    ids=["reference-start", "spin-full-mixed", "full-bf16", "lora-bf16-guided"],
)
@pytest.mark.slow
def test_every_run_starts_at_ln_two_and_learns_its_pairs(cache, tmp_path, overrides):
    log = feedback_file(tmp_path / "log.jsonl", dsat=12, sat=12)
    state = perform(tmp_path / "run", *settings(cache, log, tmp_path / "store"), "train.tokens_per_batch=1", *overrides)
    trained = [point for point in state["points"] if "counts" in point]
    assert len(trained) == 2 and all(point["examples"] == 6 and point["steps"] == 3 for point in trained)
    check = trained[:1] if "reference=start" in overrides else trained
    assert all(abs(point["first_step"]["dpo"] - 0.6931471805599453) <= 1e-6 for point in check)
    steps = [json.loads(line) for line in (tmp_path / "run" / "iteration_1" / "steps.jsonl").read_text().splitlines()]
    assert all(step["grad_norm"] > 0 for step in steps) and steps[-1]["dpo"] < steps[0]["dpo"]


def test_later_iterations_can_learn_more_slowly(cache, tmp_path):
    log = feedback_file(tmp_path / "log.jsonl", dsat=12, sat=12)
    perform(tmp_path / "run", *settings(cache, log, tmp_path / "store"), "train.rate_decay=0.25")
    rates = [
        [json.loads(line)["learning_rate"] for line in (tmp_path / f"run/iteration_{i}/steps.jsonl").read_text().splitlines()]
        for i in (1, 2)
    ]
    assert rates[1] == pytest.approx([rate / 4 for rate in rates[0]]) and rates[0][0] > 0


@pytest.mark.slow
def test_a_refreshed_log_has_feedback_on_the_previous_iterations_policy(cache, tmp_path):
    changes = ["refresh_log=true", "train.learning_rate=0.05", "filters.truncated=keep"]
    perform(tmp_path / "run", *SMALL, *changes, f"model.cache_dir={cache}", f"store.dir={tmp_path}/store")
    first, second = (
        [json.loads(line) for line in (tmp_path / "run" / place / "records.jsonl").read_text().splitlines()]
        for place in (".", "iteration_2")
    )
    assert [row["prompt"] for row in first] == [row["prompt"] for row in second]
    old, new = ({row["id"]: row["reply"] for row in log} for log in (first, second))
    pairs = [json.loads(line) for line in (tmp_path / "run/iteration_2/examples.jsonl").read_text().splitlines()]
    rejected = [(row["record"], reply["text"]) for row in pairs for reply in row["replies"] if not reply["good"]]
    assert len(rejected) == len(pairs) and all(text == new[record] for record, text in rejected)
    assert any(text != old[record] for record, text in rejected), "training changed no reply: the test shows nothing"
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert state["data"]["DSAT, iteration 2"] + state["data"]["SAT, iteration 2"] == len(second)
    items = samples.trained_on({"run": tmp_path / "run"}, Reader())
    shown = {text for item in items for kind, text in item["logged"] if kind == "disliked"}
    assert shown == {text for _, text in rejected}


@pytest.mark.slow
def test_the_first_log_may_be_another_assistants_and_later_ones_are_the_policys(cache, tmp_path):
    """A model with other random weights wrote the first log: its replies are those that a run of that model logs, while the run's
    own start model is evaluated and trained. From the second iteration on users talk to the policy."""
    common = [*SMALL, "refresh_log=true", f"model.cache_dir={cache}", f"store.dir={tmp_path}/store"]
    perform(tmp_path / "other", *common, "model.weights_seed=1", "iterations=0")
    perform(tmp_path / "own", *common, "iterations=0")
    other = Tiny(layers=2, hidden_size=32, weights_seed=1, cache_dir=str(cache), template={}).directory()
    perform(tmp_path / "run", *common, f"data.deployed.policy={other}", "iterations=2")
    logs = {name: (tmp_path / name / "records.jsonl").read_text() for name in ("other", "own", "run")}
    assert logs["run"] == logs["other"] != logs["own"]
    scores = [next((tmp_path / name / "iteration_0").rglob("scores.json")).read_bytes() for name in ("own", "run")]
    assert scores[0] == scores[1]
    later = (tmp_path / "run/iteration_2/records.jsonl").read_text()
    assert later not in logs.values()
    with pytest.raises(UserError, match="data.deployed.policy=nowhere is neither a directory nor a hub id"):
        perform(tmp_path / "wrong", *common, "data.deployed.policy=nowhere")


def second_tries(path):
    """A log in which some complaints were answered by a reply that satisfied."""
    log = feedback_file(path, dsat=12, sat=6)
    seed = {"prompt": [{"role": "user", "content": "Which?"}], "rejected": [{"content": "bad"}], "chosen": [{"content": "good"}]}
    rows = [seed | {"prompt": [{"role": "user", "content": f"Which {i}?"}]} for i in range(8)]
    log.write_text(log.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    return log


def test_the_warm_start_is_a_stage_before_the_first_iteration(cache, tmp_path):
    log = second_tries(tmp_path / "log.jsonl")
    state = perform(tmp_path / "run", *settings(cache, log, tmp_path / "store"), "warmup_epochs=2", "iterations=1")
    names = [point["name"] for point in state["points"]]
    warm = state["points"][1]
    assert names == ["start", "warm start", "iteration 1"]
    assert warm["examples"] >= 4 and warm["steps"] == 2 * -(-warm["examples"] // 2) and warm["generated_tokens"] == 0


@pytest.mark.slow
def test_the_papers_settings_complete_a_run(cache, tmp_path):
    common = settings(cache, second_tries(tmp_path / "log.jsonl"), tmp_path / "store")
    state = perform(tmp_path / "run", "experiment=paper-0.5b", *common, "examples_per_iteration=null", "iterations=1")
    _, warm, trained = state["points"]
    assert (warm["name"], warm["steps"]) == ("warm start", 3 * -(-warm["examples"] // 2))
    assert trained["examples"] == trained["counts"]["used"]
    assert not (tmp_path / "run/iteration_1/policy/adapter_config.json").exists()


@pytest.mark.slow
def test_a_method_is_one_file_and_one_yaml(cache, tmp_path):
    """A new method in a folder of its own, found through Python's and Hydra's search paths; no file of ours is touched."""
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "longest.py").write_text(
        "from dataclasses import dataclass\n"
        "from drift.records import example, fresh\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Longest:\n"
        "    num_samples: int\n"
        "    paired = True\n"
        "    hindsight = False\n"
        "    judge = None\n"
        "    needs = 'anything'\n\n"
        "    def learns_from(self, record):\n"
        "        return True\n\n"
        "    def make_examples(self, records, ask):\n"
        "        for record, replies in ask.draw(records, lambda r: [r.prompt] * self.num_samples, label='f'):\n"
        "            short, *_, long = sorted(replies, key=lambda reply: len(reply.text))\n"
        "            yield example(record, fresh(long, good=True), fresh(short, good=False))\n"
    )
    (tmp_path / "conf" / "method" / "longest.yaml").write_text("_target_: longest.Longest\nnum_samples: 3\n")
    log = feedback_file(tmp_path / "log.jsonl")
    done = command(
        "method=longest", f"hydra.searchpath=[file://{tmp_path}/conf]", *settings(cache, log, tmp_path / "store"),
        "iterations=1", f"hydra.run.dir={tmp_path}/run", PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    pairs = [json.loads(line) for line in (tmp_path / "run" / "iteration_1" / "examples.jsonl").read_text().splitlines()]
    lengths = [[len(reply["text"]) for reply in pair["replies"]] for pair in pairs]
    assert len(pairs) == 6 and all(chosen >= rejected for chosen, rejected in lengths)
    assert (tmp_path / "run" / "config.yaml").read_text().count("longest.Longest") == 1


@pytest.mark.slow
def test_a_member_that_fails_is_named_and_the_others_finish(cache, tmp_path):
    log = feedback_file(tmp_path / "log.jsonl", dsat=8, sat=0)
    rows = settings(cache, log, tmp_path / "store")
    done = command("-m", "method=spin,drift", *rows, "iterations=1", f"hydra.sweep.dir={tmp_path}/study")
    assert (
        done.returncode == 1
        and "The method has nothing to learn from: it needs SAT" in done.stdout
        and "1 of 2 members failed" in done.stderr
    )
    assert "Traceback" not in done.stderr and "Error executing job" not in done.stderr
    text = (tmp_path / "study" / "report.html").read_text()
    assert "spin failed: UserError" in text and "drift: after iteration 1, log-prob lost per disliked token" in text
    start, after = json.loads((tmp_path / "study" / "1-drift" / "run.json").read_text())[
        "points"
    ]  # of complaints alone: more is better
    values = [point["scores"]["heldout"]["metrics"]["log-prob lost per disliked token"]["value"] for point in (start, after)]
    assert values[0] == 0 < values[1]


@pytest.mark.slow
def test_sigterm_ends_a_sweep_with_its_report_and_not_only_one_member(cache, tmp_path):
    """In the middle of training, where Lightning catches the signal; 143 is 128 + SIGTERM."""
    log = feedback_file(tmp_path / "log.jsonl")
    overrides = [*settings(cache, log, tmp_path / "store"), "seed=0,1", "train.epochs=2000", f"hydra.sweep.dir={tmp_path}/study"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([sys.executable, str(ROOT / "run.py"), "-m", *overrides], **pipes) as process:
        while not list((tmp_path / "store").glob("train/*.progress.*/last.ckpt")):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.2)
        process.terminate()
        printed = process.communicate(timeout=60)[0]
        assert process.returncode == 143 and foreign(printed) == []
    assert re.search(r"training: stopped at \d+ of 6000 steps, of which \d+ are saved\n\nStopped by SIGTERM", printed)
    assert (tmp_path / "study" / "report.html").is_file()
    assert [json.loads(file.read_text())["status"] for file in (tmp_path / "study").glob("*/run.json")] == ["stopped"]
