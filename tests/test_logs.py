"""From a user's log to a trained policy on the command line, and what docs/extend.md says about adding a source."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, command


def drift(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, "-m", "drift", *arguments], cwd=cwd, capture_output=True, text=True, timeout=200,
        env=os.environ | environment,
    )  # fmt: skip


def chats(path, count=24):
    """Conversations in OpenAI's form; half of the users complain, a quarter thank; one row is broken, one is there twice."""
    ends = ["No, that's wrong. Do it again.", "make it shorter", "thanks, perfect", "and what about cats?"]
    rows = []
    for i in range(count):
        turns = [f"Tell me fact number {i} about the sea, please.", f"The sea holds fish of kind {i}.", ends[i % 4], "As you wish."]
        rows.append(
            {"id": f"c{i}", "messages": [{"role": ("user", "assistant")[k % 2], "content": t} for k, t in enumerate(turns)]}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]) + '{"messages": [}\n')
    return path


@pytest.mark.slow
def test_mine_describe_and_learn(cache, tmp_path):
    log = chats(tmp_path / "chats.jsonl")
    mined = drift("mine", str(log), "--out", str(tmp_path / "records.jsonl"), "mine=rules", "intake.near_duplicates=null")
    assert mined.returncode == 0 and mined.stderr == "", mined.stderr
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    aside = [json.loads(line) for line in (tmp_path / "records.quarantine.jsonl").read_text().splitlines()]
    assert [sum(record["label"] == label for record in records) for label in ("dsat", "sat")] == [12, 6]
    assert [(row["row"], row["reason"]) for row in aside] == [(26, "malformed row"), (25, "duplicate")]
    assert "18 records in" in mined.stdout and "2 rows set aside" in mined.stdout

    tiny = ("model=tiny", f"model.cache_dir={cache}")
    described = drift("describe", str(tmp_path / "records.jsonl"), *tiny)
    assert described.returncode == 0 and described.stderr == "", described.stderr
    assert "12 DSAT and 6 SAT (2.0 : 1)" in described.stdout and "style" in described.stdout
    assert "The precision was not measured on your log" in described.stdout
    assert f"drift run data=records data.path={tmp_path}/records.jsonl sampler.max_new_tokens=" in described.stdout
    page = (tmp_path / "records.html").read_text()
    assert page.count("<svg") == 2 and not re.search(r"(src|href)=.http", page)
    assert page.count(".79 [.55, .98]") == 1 and page.count("<details") == len({r["provenance"]["category"] for r in records})
    assert (
        "0 have the prompt, the reply, the label and the better reply of an earlier one" in described.stdout
        and "18 can be used without cutting anything off" in described.stdout
    )

    done = command(
        *tiny, "data=records", f"data.path={tmp_path}/records.jsonl", f"store.dir={tmp_path}/s", f"hydra.run.dir={tmp_path}/run",
        "iterations=1", "examples_per_iteration=4", "train.examples_per_step=2", "sampler.max_new_tokens=8",
        "evaluation.heldout.share=0.3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert state["data"]["DSAT"] == 12 and state["data"]["SAT"] == 6
    assert "training records with prompts of the evaluation" in state["data"]
    assert ".79 [.55, .98]" in (tmp_path / "run/report.html").read_text()


@pytest.mark.slow
def test_text_of_a_log_is_escaped_in_the_page(cache, tmp_path):
    evil = "<script>alert(1)</script>"
    row = {"id": evil, "messages": [{"role": "user", "content": evil}, {"role": "assistant", "content": evil, "feedback": "down"}]}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    assert drift("mine", str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "r.jsonl"), "mine=rules").returncode == 0
    assert drift("describe", str(tmp_path / "r.jsonl"), "model=tiny", f"model.cache_dir={cache}").returncode == 0
    assert "<script>" not in (tmp_path / "r.html").read_text() and "&lt;script&gt;" in (tmp_path / "r.html").read_text()


def test_user_errors_have_no_traceback():
    for arguments, words in (
        (["mine", "nowhere.jsonl", "--out", "x"], "data.path=nowhere.jsonl: no such file or directory"),
        (["mine", "owner/name", "--source", "wildchat", "--out", "x"], "hf download --repo-type dataset owner/name"),
        (["mine", str(ROOT / "README.md"), "--out", "x"], "expected a file that ends with"),
        (["mine", "x.jsonl", "--source", "wildcat", "--out", "x"], "Did you mean wildchat?"),
        (["agree", "users", "reward_model", "x.jsonl", "a.path=x"], "users have no settings"),
        (
            ["describe", str(ROOT / "experiments/miner/labels.jsonl"), "model=tiny"],
            "contains no records. Expected a file written by `drift mine`. The first of 4200 unreadable rows is row 1 of",
        ),
    ):
        done = drift(*arguments)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, (arguments, done.stderr)


def test_a_place_that_cannot_be_written_is_named_and_a_closed_pipe_is_no_error(tmp_path):
    chats(tmp_path / "log.jsonl")
    (tmp_path / "file").write_text("")
    done = drift("mine", str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "file/r.jsonl"), "mine=rules")
    assert (
        done.returncode == 1 and re.search(r"/file\S* can't be written to: .*--out", done.stderr) and "Traceback" not in done.stderr
    )
    assert drift("mine", str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "r.jsonl"), "mine=rules").returncode == 0
    done = drift("describe", str(tmp_path / "r.jsonl"), "model=tiny", "--out", str(tmp_path))
    assert done.returncode == 1 and f"{tmp_path} can't be written to: Is a directory. Choose another" in done.stderr, done.stderr
    words = [sys.executable, "-c", "import sys; sys.argv[1:] = ['--help']; from drift.__main__ import main; main()"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(words, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert "Traceback" not in done.stderr


def test_a_rating_beside_another_sources_turns_is_shown_the_way_to_the_source_that_reads_it(tmp_path):
    row = {"conversation": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "rating": 2}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    done = drift("mine", str(tmp_path / "log.jsonl"), "--source", "wildchat", "--out", str(tmp_path / "r.jsonl"))
    assert (
        done.returncode == 1 and "the field rating looks like a user's opinion but is not read. data=messages reads" in done.stderr
    )
    assert "put the turns under `messages`" in done.stderr and "data.ignore_fields=[rating]" in done.stderr


def test_a_hub_data_set_is_read_from_the_cache_it_was_fetched_to(tmp_path):
    """The cache's layout is huggingface_hub's own: refs/main names the snapshot, which links into blobs."""
    commit, folder = "0" * 40, tmp_path / "hub/datasets--owner--chats"
    snapshot = folder / "snapshots" / commit / "data"
    for needed in (snapshot, folder / "refs", folder / "blobs"):
        needed.mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    chats(folder / "blobs/abc")
    (snapshot / "chats.jsonl").symlink_to(folder / "blobs/abc")
    done = drift("mine", "owner/chats", "--out", str(tmp_path / "r.jsonl"), "mine=rules", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and "18 records in" in done.stdout, done.stderr


def test_adding_a_source_as_the_page_on_extending_says(cache, tmp_path):
    """In a copy: one file and one yaml, made from the pattern that the page names; nothing else is touched."""
    section = (ROOT / "docs/extend.md").read_text().split("\n## A source of logs\n")[1].split("\n## ")[0]
    pattern = re.search(r"`(drift/data/\w+\.py)` is the pattern", section).group(1)
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("outputs", ".git", ".venv", "__pycache__", "*.egg-info", "build"))
    text = (copy / pattern).read_text().replace("class Preference", "class Votes").replace('name = "preference"', 'name = "votes"')
    (copy / "drift/data/votes.py").write_text(
        text.replace('"chosen", "rejected"', '"winner", "loser"').replace('row.get("prompt")', 'row.get("question")')
    )
    (copy / "conf/data/votes.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /evaluation: heldout\n\n"
        "data:\n  _target_: drift.data.votes.Votes\n  path: ???\n  config: null\n  split: null\n"
        "  turn_markers: refuse\n  ignore_fields: []\n"
    )
    rows = [{"question": f"Question {i}?", "winner": f"Good {i}.", "loser": f"Bad {i}."} for i in range(8)]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = drift("mine", str(tmp_path / "votes.jsonl"), "--source", "votes", "--out", str(tmp_path / "records.jsonl"), cwd=copy)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert len(records) == 16 and {record["provenance"]["source"] for record in records} == {"votes"}


def test_rows_of_another_form_are_named_by_the_fields_that_they_have(tmp_path):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps({"history": [], "user_id": i}) + "\n" for i in range(5)))
    done = drift("mine", str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "r.jsonl"))
    assert done.returncode == 1 and "found no such field; the row has history, user_id (docs/log-format.md" in done.stderr, (
        done.stderr
    )
