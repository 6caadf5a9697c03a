"""Records: from files, from real logs, from the simulated deployment. Bad rows are named and counted, never lost."""

import json

import pytest
from conftest import feedback_file, perform

from drift.data.deployment import Deployment, split_topics
from drift.data.jsonl import BadRow, Jsonl, parse
from drift.data.requests import REQUESTS, feedback, topic_stem, verify
from drift.data.sharegpt import JsonArray, ShareGpt, feedback_records, label, to_messages
from drift.data.usable import usable

USER = {"role": "user", "content": "Hi"}
BAD = [
    (b"{not json", "(row)"),
    (b"[1]", "(row)"),
    (b"\xff\xfe", "(row)"),
    ({"rejected": [{"content": "x"}]}, "prompt"),
    ({"prompt": [], "rejected": [{"content": "x"}]}, "prompt"),
    ({"prompt": [USER, USER], "rejected": [{"content": "x"}]}, "prompt[1].role"),
    ({"prompt": [{"role": "user", "content": None}], "rejected": [{"content": "x"}]}, "prompt[0].content"),
    ({"prompt": [USER, {"role": "assistant", "content": "y"}], "rejected": [{"content": "x"}]}, "prompt"),
    ({"prompt": [USER]}, "rejected"),
    ({"prompt": [USER], "rejected": "text"}, "rejected"),
    ({"prompt": [USER], "rejected": [{"content": "  "}]}, "rejected[0].content"),
    ({"prompt": [USER], "rejected": [{"content": "x"}], "user_preference": "no"}, "user_preference"),
]


@pytest.mark.parametrize(("row", "field"), BAD)
def test_a_malformed_row_names_its_field(row, field):
    line = row if isinstance(row, bytes) else json.dumps(row).encode()
    with pytest.raises(BadRow) as error:
        parse(line, "x")
    assert error.value.args[0] == field


def test_dsat_sat_and_seed_rows_of_the_official_format():
    row = {"prompt": [USER], "rejected": [{"role": "assistant", "content": "bad"}], "user_preference": {"content": "No."}}
    dsat, sat = (
        parse(json.dumps(row).encode(), "a"),
        parse(b'{"prompt":[{"role":"user","content":"Hi"}],"chosen":[{"content":"ok"}]}', "b"),
    )
    seed = parse(json.dumps(row | {"chosen": [{"content": "better"}]}).encode(), "c")
    assert (dsat.label, dsat.reply, dsat.feedback, dsat.satisfied) == ("dsat", "bad", "No.", False)
    assert (sat.label, sat.reply, sat.feedback, sat.satisfied) == ("sat", "ok", None, True)
    assert (seed.label, seed.reply, seed.revised, seed.satisfied) == ("dsat", "bad", "better", True)


def test_three_malformed_rows_among_thirty_are_named_and_the_others_used(cache, tmp_path, capsys):
    path = feedback_file(tmp_path / "log.jsonl", dsat=20, sat=10)
    lines = path.read_text().splitlines()
    lines[4], lines[11] = "{broken", json.dumps({"prompt": [USER]})
    lines[17] = json.dumps({"prompt": [USER], "rejected": [{"role": "assistant", "content": None}]})
    path.write_text("\n".join(lines) + "\n")
    folder = tmp_path / "run"
    state = perform(
        folder, "model=tiny", f"model.cache_dir={cache}", "data=jsonl", f"data.path={path}", f"store.dir={tmp_path}/store",
        "iterations=1", "pairs_per_iteration=4", "sampler.max_new_tokens=8", "filters.truncated=keep", "evaluation.share=0.3",
    )  # fmt: skip
    aside = [json.loads(line) for line in (folder / "set_aside.jsonl").read_text().splitlines()]
    assert [(row["line"], row["field"]) for row in aside] == [(5, "(row)"), (12, "rejected"), (18, "rejected[0].content")]
    assert all(row["file"] == str(path) and row["expected"] for row in aside)
    assert state["data"]["DSAT"] + state["data"]["SAT"] == 27 and state["data"]["set aside: malformed row"] == 3
    assert "set aside: malformed row" in (folder / "report.html").read_text()
    said = capsys.readouterr().out
    assert all(f"line {number}" in said for number in (5, 12, 18))


def test_a_file_without_a_usable_row_stops_the_run(cache, tmp_path):
    from drift.errors import UserError

    path = tmp_path / "log.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UserError, match="No usable record: all 1 rows were set aside"):
        perform(
            tmp_path / "run", "model=tiny", f"model.cache_dir={cache}", "data=jsonl", f"data.path={path}",
            f"store.dir={tmp_path}/store", "sampler.max_new_tokens=8",
        )  # fmt: skip


def test_max_records_is_a_seeded_choice(tmp_path):
    path = feedback_file(tmp_path / "log.jsonl")
    picks = [[r.id for r in Jsonl(path=str(path), max_records=5, seed=s).collect(None).records] for s in (0, 0, 1)]
    assert picks[0] == picks[1] != picks[2] and len(picks[0]) == 5


def conversation(*turns, name="a_0"):
    roles = ("human", "gpt")
    return {"id": name, "conversations": [{"from": roles[i % 2], "value": text} for i, text in enumerate(turns)]}


def test_an_array_that_is_cut_off_gives_every_complete_conversation(tmp_path):
    path = tmp_path / "cut.json"
    whole = json.dumps([conversation(f"hi {i}", "x" * 400_000, "thanks!") for i in range(6)])
    path.write_text(whole[: len(whole) - 100_000])
    array = JsonArray(path)
    assert [item["conversations"][0]["value"] for item in array] == [f"hi {i}" for i in range(5)]
    assert array.count == 5 and array.cut
    path.write_text(whole)
    complete = JsonArray(path)
    assert len(list(complete)) == 6 and not complete.cut


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("No, that's wrong. It was 1871.", "dsat"),
        ("you forgot the second part", "dsat"),
        ("I asked for two sentences", "dsat"),
        ("it still doesn't work", "dsat"),
        ("make it shorter", "dsat"),
        ("Thanks! Now what about cats?", "sat"),
        ("perfect", "sat"),
        ("Thanks but can you make sure that these are real words", None),
        ("Thank you but that's not what I asked", "dsat"),
        ("What is wrong with my car?", None),
        ("continue", None),
        ("translate it to French", None),
        ("that's wrong " + "word " * 300, None),
    ],
)
def test_the_rule_for_feedback(turn, expected):
    assert label(turn) == expected


def test_records_of_a_conversation_carry_prompt_reply_feedback_and_the_later_answer():
    talk = to_messages(conversation("Sum it up.", "Long text.", "You forgot the end", "Short text.", "thanks", "Welcome."))
    dsat, sat = feedback_records("abc_17", talk)
    assert (dsat.label, [m["content"] for m in dsat.prompt], dsat.reply) == ("dsat", ["Sum it up."], "Long text.")
    assert (dsat.feedback, dsat.revised, dsat.satisfied) == ("You forgot the end", "Short text.", True)
    assert (sat.label, len(sat.prompt), sat.reply) == ("sat", 3, "Short text.")
    assert dsat.conversation == sat.conversation == "abc"


def test_conversations_that_do_not_fit_are_counted_by_reason(tmp_path):
    path = tmp_path / "log.json"
    odd = {"id": "b", "conversations": [{"from": "gpt", "value": "hello"}]}
    path.write_text(json.dumps([conversation("a", "b", "thanks"), odd, {"id": "c", "conversations": []}]))
    found = ShareGpt(path=str(path), max_records=None, seed=0).collect(None)
    assert found.facts["conversations read"] == 3 and found.facts["the file ends"] == "properly"
    assert found.facts["conversations not used (does not begin with a user turn)"] == 1
    assert found.facts["conversations not used (empty)"] == 1
    assert [record.label for record in found.records] == ["sat"]


CHECKS = [
    ("one_sentence", "Tea is a warm drink.", True),
    ("one_sentence", "Tea is warm. It is a drink.", False),
    ("one_sentence", "Tea is a warm drink", False),
    ("no_commas", "Tea is warm and good.", True),
    ("no_commas", "Tea, a drink, is warm.", False),
    ("at_most_20_words", "Tea is warm. It is a drink.", True),
    ("at_most_20_words", "Tea is " + " ".join(f"word{i}" for i in range(18)), True),
    ("at_most_20_words", "Tea is " + " ".join(f"word{i}" for i in range(19)), False),
    ("numbered_list", "1. Tea is warm.\n2. Tea is good.", True),
    ("numbered_list", "1. Tea is warm and good.", False),
    ("impersonal", "Tea is warm and inviting.", True),
    ("impersonal", "I like my tea warm.", False),
    ("at_most_30_words", "Tea is warm and good.", True),
    ("at_most_30_words", "Tea is " + " ".join(f"word{i}" for i in range(29)), False),
]


@pytest.mark.parametrize(("request_name", "reply", "expected"), CHECKS)
def test_every_request_has_an_exact_check(request_name, reply, expected):
    assert verify({"topic": "tea", "request": request_name}, reply).met is expected
    assert {name for name, _, _ in CHECKS} == set(REQUESTS)


def test_a_useful_reply_is_on_topic_and_sound_too():
    truth = {"topic": "tea", "request": "no_commas"}
    assert verify(truth, "Tea is warm and good.").useful
    assert not verify(truth, "Coffee is warm and good.").on_topic
    assert not verify(truth, "Tea tea.").sound
    assert not verify(truth, "tea tea tea tea tea tea").sound
    assert verify({"topic": "knives", "request": "no_commas"}, "A knife is sharp and useful.").on_topic
    assert topic_stem("cherries") == "cherr" and topic_stem("grass") == "grass" and topic_stem("bees") == "bee"


def test_the_simulated_user_complains_about_what_is_wrong_first():
    truth = {"topic": "tea", "request": "no_commas"}
    first = lambda options: options[0]  # noqa: E731
    assert "comma" in feedback(truth, verify(truth, "Tea, warm."), first)
    assert "not about tea" in feedback(truth, verify(truth, "Cars are fast and loud."), first)
    assert "Thanks" in feedback(truth, verify(truth, "Tea is warm and good."), first)


def test_topics_are_split_without_overlap_and_tasks_are_seeded():
    split = split_topics()
    assert not set(split["train"]) & set(split["test"]) and not set(split["validation"]) & set(split["test"])
    assert not set(split["train"]) & set(split["validation"])
    tasks = [Deployment(seed=s, num_prompts=8, second_tries=False, system=None).tasks("test", 24) for s in (0, 0, 1)]
    assert tasks[0] == tasks[1] != tasks[2]
    assert all(task.truth["topic"] in split["test"] for task in tasks[0]) and len({t.key for t in tasks[0]}) == 24


def test_records_that_are_too_long_or_empty_are_set_aside_and_never_cut(tokenizer):
    talk = conversation("Hi", "word " * 50, "thanks", "ok", "that's wrong")
    records = list(feedback_records("a", to_messages(talk)))
    kept, aside = usable(records, tokenizer, max_tokens=200, max_new_tokens=20)
    assert kept == [] and [row["reason"] for row in aside] == ["too long", "too long"]
    assert "tokens" in aside[0]["found"] and aside[0]["record"] == "a:2"
    kept, aside = usable(records, tokenizer, max_tokens=1000, max_new_tokens=20)
    assert len(kept) == 2 and not aside


def test_a_second_answer_that_is_too_long_is_named_and_its_record_kept_without_it(tokenizer):
    talk = conversation("Hi", "short", "that's wrong", "word " * 80, "thanks")
    kept, aside = usable(list(feedback_records("a", to_messages(talk)))[:1], tokenizer, max_tokens=300, max_new_tokens=20)
    assert (kept[0].reply, kept[0].revised, kept[0].satisfied) == ("short", None, False)
    assert [row["reason"] for row in aside] == ["second answer too long"]
