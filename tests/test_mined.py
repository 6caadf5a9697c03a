"""`drift mine`: what it says where nothing is found, and whose files it never writes over."""

import json
import os
import runpy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from drift import __main__ as command
from drift.compose import compose
from drift.config import build
from drift.data.messages import Messages
from drift.errors import UserError
from drift.intake import mined


def rows(*talks):
    return "".join(
        json.dumps({"messages": [{"role": ("user", "assistant")[i % 2], "content": said} for i, said in enumerate(talk)]}) + "\n"
        for talk in talks
    )


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """`drift mine`, in a folder of its own and in this process."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        command.dispatch(["mine", *arguments, "mine=rules"])

    return call


ONE = rows(["Tell me about tea.", "Tea is hot.", "That's wrong."])


def test_nothing_found_says_why_by_reason_with_counts(mine, tmp_path):
    said = [["Tell me about tea.", "Tea is hot.", text] for text in ("And coffee?", "Nein, das ist falsch.", "C'est faux.")]
    (tmp_path / "log.jsonl").write_text(rows(*said, ["Hi", "Yo"]) + '{"messages": 3}\n{"messages": 4}\n')
    with pytest.raises(UserError) as error:
        mine("log.jsonl", "--out", "r.jsonl")
    text = str(error.value)
    assert text.startswith("No record was found in log.jsonl") and "replies classified: 3" in text
    assert "(it reads English), in de: 1" in text and "(it reads English), in fr: 1" in text
    assert "The miner reads English only; in other" in text
    assert "set aside, malformed row: 2; the first is row 5 of log.jsonl, messages: expected a list" in text
    assert not (tmp_path / "r.jsonl").exists() and len((tmp_path / "r.quarantine.jsonl").read_text().splitlines()) >= 2
    with pytest.raises(UserError, match="No record was found"):
        mine("log.jsonl", "--out", "r.jsonl")  # the next try is not refused because of what this one left


@dataclass(frozen=True, kw_only=True)
class Meanwhile(Messages):
    """While it is read, another mining ends."""

    other: Any

    def conversations(self, file):
        mined.mine(self.other, Path("r.jsonl"), overwrite=False)
        return Messages.conversations(self, file)


def test_the_second_of_two_minings_into_one_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("log.jsonl", "other.jsonl"):
        (tmp_path / name).write_text(ONE)
    run, other = (build(compose(["data=messages", f"data.path={name}.jsonl", "mine=rules"])) for name in ("log", "other"))
    slow = replace(run, data=Meanwhile(**vars(run.data), other=other))
    with pytest.raises(UserError, match="r.jsonl has meanwhile been written by another process"):
        mined.mine(slow, Path("r.jsonl"), overwrite=False)
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1


def test_rows_that_are_all_set_aside_are_not_said_to_lack_feedback(mine, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"messages": 3}\n')
    (tmp_path / "table.jsonl").write_text("question,answer\nWhat?,That.\n")
    for name, words in (("log", "malformed row: 1; the first is row 1"), ("table", "log-format.md shows how to convert a table")):
        with pytest.raises(UserError, match=words) as error:
            mine(f"{name}.jsonl", "--out", "r.jsonl", "--overwrite")
        assert "No reply has feedback" not in str(error.value)


def test_a_second_log_among_the_settings_is_refused(mine, tmp_path):
    for name in ("log", "other"):
        (tmp_path / f"{name}.jsonl").write_text(ONE)
    for given in ("data.path=other.jsonl", "data=sharegpt"):
        with pytest.raises(UserError, match=f"{given}: this command takes it from .* Leave one of the two out"):
            mine("log.jsonl", "--out", "r.jsonl", given)
    assert not (tmp_path / "r.jsonl").exists()


def test_what_mine_wrote_into_the_folder_of_the_logs_is_no_log(mine, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/log.jsonl").write_text(ONE + '{"messages": 3}\n')
    mine("logs", "--out", "logs/old.jsonl")
    with pytest.raises(UserError, match="logs/old.jsonl holds records that `drift mine` wrote.*move the file out of the folder"):
        mine("logs", "--out", "r.jsonl")
    (tmp_path / "logs/old.jsonl").unlink()
    mine("logs", "--out", "r.jsonl")
    aside = [json.loads(line) for line in (tmp_path / "r.quarantine.jsonl").read_text().splitlines()]
    assert [Path(row["file"]).name for row in aside] == ["log.jsonl"], "and old.quarantine.jsonl is passed over"


@pytest.mark.parametrize(("name", "words"), [
    ("log.csv", "shows how to convert a table"), ("log.XLSX", "shows how to convert a table"), ("log.jsonl.zst", "Unpack it first"),
])  # fmt: skip
def test_a_file_of_another_kind_is_refused_with_what_to_do(name, words, mine, tmp_path):
    (tmp_path / name).write_text("a,b\n")
    with pytest.raises(UserError, match=f"expected a file that ends with .*{words}"):
        mine(name, "--out", "r.jsonl")


def test_a_folder_may_be_described_by_any_of_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(UserError, match=r"^\. contains no records\. .*The first of 1 unreadable rows is row 1 of r\.jsonl"):
        command.dispatch(["describe", ".", "model=tiny"])


def test_a_log_without_user_turns_after_replies_is_explained(mine, tmp_path):
    (tmp_path / "log.jsonl").write_text(rows(["Hi", "Yo"], ["Hello", "Good day"]))
    with pytest.raises(UserError, match="No reply has feedback or is followed by a user turn"):
        mine("log.jsonl", "--out", "r.jsonl")


def test_nothing_found_ends_with_exit_code_1(tmp_path, monkeypatch):
    (tmp_path / "log.jsonl").write_text(rows(["Hi", "Yo"]))
    monkeypatch.setattr(sys, "argv", ["drift", "mine", f"{tmp_path}/log.jsonl", "--out", f"{tmp_path}/r.jsonl", "mine=rules"])
    monkeypatch.delitem(sys.modules, "drift.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("drift", run_name="__main__")
    assert "No record was found" in ended.value.code  # a text: Python prints it and ends with 1


def test_the_log_is_never_written_over_by_any_name(mine, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "log.jsonl").write_text(ONE)
    os.symlink("log.jsonl", "link.jsonl")
    os.link("log.jsonl", "hard.jsonl")
    os.link("log.jsonl", "r.quarantine.jsonl")
    for out in ("log.jsonl", "./sub/../log.jsonl", f"{tmp_path}/log.jsonl", "link.jsonl", "hard.jsonl", "r.jsonl"):
        with pytest.raises(UserError, match="the log itself. Give another name"):
            mined.check_output([Path("log.jsonl")], Path(out), Path(out).with_name("r.quarantine.jsonl"), overwrite=True)
    with pytest.raises(UserError, match="the log itself. Give another name"):
        mine("log.jsonl", "--out", "log.jsonl", "--overwrite")
    assert (tmp_path / "log.jsonl").read_text() == ONE


def test_two_minings_in_one_folder_keep_both_quarantines(mine, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text(ONE + f'{{"messages": "{name}"}}\n')
        mine(f"{name}.jsonl", "--out", f"records-{name}.jsonl")
    for name in ("one", "two"):
        assert name in (tmp_path / f"records-{name}.quarantine.jsonl").read_text()


def test_earlier_output_is_replaced_only_with_overwrite(mine, tmp_path):
    (tmp_path / "one.jsonl").write_text(ONE)
    (tmp_path / "two.jsonl").write_text(ONE + ONE.replace("tea", "cocoa") + '{"messages": "two"}\n')
    mine("one.jsonl", "--out", "records.jsonl")
    before = (tmp_path / "records.jsonl").read_text()
    with pytest.raises(UserError, match="records.jsonl already exists.*--overwrite"):
        mine("two.jsonl", "--out", "records.jsonl")
    assert (tmp_path / "records.jsonl").read_text() == before
    mine("two.jsonl", "--out", "records.jsonl", "--overwrite")
    (tmp_path / "records.jsonl").unlink()
    with pytest.raises(UserError, match="records.quarantine.jsonl already exists"):
        mine("one.jsonl", "--out", "records.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for out, words in (("records.txt", "expected a name that ends with .jsonl"), ("folder.jsonl", "is a directory")):
        with pytest.raises(UserError, match=words):
            mine("one.jsonl", "--out", out)


@pytest.mark.parametrize("name", ["März (1) a=b, #2 ${x}'s.jsonl", "2024.jsonl"])
def test_a_log_of_any_name_is_mined_into_records_of_any_name(mine, tmp_path, name):
    (tmp_path / name).write_text(ONE)
    mine(name, "--out", f"records of {name}")
    assert json.loads((tmp_path / f"records of {name}").read_text())["label"] == "dsat"


def test_help_lists_the_settings_with_their_values_and_comments(capsys):
    with pytest.raises(SystemExit):
        command.dispatch(["mine", "--help"])
    said = capsys.readouterr().out
    for words in (
        "name=value ...",
        "displeased_up_to: null # for numbers in the log",
        "mine=classifier (or cascade, rules)",
        "near_duplicates: 0.9",
        "max_dollars: 5.0 # for",
        "--overwrite",
    ):
        assert words in said
