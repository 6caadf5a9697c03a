"""Records: from files, from real logs, from the simulated deployment. Bad rows are named and counted, never lost."""

import json

import pytest
from conftest import feedback_file, perform

from drift.data.deployment import Deployed, Deployment, split_topics
from drift.data.jsonl import Jsonl, parse
from drift.data.messages import Messages
from drift.data.requests import REQUESTS, SETS, verify
from drift.data.users import Rates, next_turn
from drift.errors import UserError
from drift.intake.collected import said_of
from drift.intake.conversations import Conversation, to_records
from drift.intake.intake import Intake
from drift.intake.leakage import remove_leaked
from drift.intake.opinions import with_opinions
from drift.intake.rows import BadRow
from drift.intake.usable import usable
from drift.mine.classifier import Classifier
from drift.mine.rules import Rules
from drift.mine.unread import UNREAD

USER = {"role": "user", "content": "Hi"}
BAD = [
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
def test_a_malformed_row_is_reported_with_its_field(row, field):
    with pytest.raises(BadRow) as error:
        parse(row, "x", 1)
    assert error.value.args[0] == field


def test_dsat_sat_and_seed_rows_of_the_official_format():
    row = {"prompt": [USER], "rejected": [{"role": "assistant", "content": "bad"}], "user_preference": {"content": "No."}}
    dsat, sat = (
        next(to_records(parse(given, "a", 1), "test")) for given in (row, {"prompt": [USER], "chosen": [{"content": "ok"}]})
    )
    seed, better = to_records(parse(row | {"chosen": [{"content": "better"}]}, "c", 1), "test")
    assert (dsat.label, dsat.reply, dsat.feedback, dsat.satisfied) == ("dsat", "bad", "No.", False)
    assert (sat.label, sat.reply, sat.feedback, sat.satisfied) == ("sat", "ok", None, True)
    assert (seed.label, seed.reply, seed.revised, seed.satisfied) == ("dsat", "bad", "better", True)
    assert (better.label, better.reply) == ("sat", "better"), "the better reply pleased"


def test_a_log_in_many_languages_with_many_bad_rows_takes_a_few_lines_of_the_console():
    unread = {f"{UNREAD}{code}": count for code, count in zip("de fr es ru it pl ja".split(), range(7, 0, -1), strict=True)}
    rows = [{"file": "log.jsonl", "row": number, "reason": "malformed row"} for number in range(1, 21)]
    assert said_of({"conversations read": 900, **unread, "DSAT": 12, "set aside: malformed row": 40}, rows) == [
        "Feedback: 900 conversations read, 12 DSAT, 40 set aside: malformed row",
        f"  28 {UNREAD}other languages: de 7, fr 6, es 5, ru 4, it 3, pl 2, …",
        *(f"  set aside: file log.jsonl, row {number}, reason malformed row" for number in (1, 2, 3)),
        "  … and 37 more; all of them stand in quarantine.jsonl of the run",
    ]
    assert said_of({"DSAT": 2}, []) == ["Feedback: 2 DSAT"]


def test_three_malformed_rows_among_thirty_are_named_and_the_others_used(cache, tmp_path, capsys):
    path = feedback_file(tmp_path / "log.jsonl", dsat=20, sat=10)
    lines = path.read_text().splitlines()
    lines[4], lines[11] = "{broken", json.dumps({"prompt": [USER]})
    lines[17] = json.dumps({"prompt": [USER], "rejected": [{"role": "assistant", "content": None}]})
    path.write_text("\n".join(lines) + "\n")
    folder = tmp_path / "run"
    state = perform(
        folder, "model=tiny", f"model.cache_dir={cache}", "data=jsonl", f"data.path={path}", f"store.dir={tmp_path}/store",
        "iterations=1", "examples_per_iteration=4", "sampler.max_new_tokens=8", "filters.truncated=keep",
        "evaluation.heldout.share=0.3",
    )  # fmt: skip
    aside = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["row"], row["field"]) for row in aside] == [(5, "(row)"), (12, "rejected"), (18, "rejected[0].content")]
    assert all(row["file"] == str(path) and row["expected"] for row in aside)
    assert state["data"]["DSAT"] + state["data"]["SAT"] == 27 and state["data"]["set aside: malformed row"] == 3
    assert "set aside: malformed row" in (folder / "report.html").read_text()
    said = capsys.readouterr().out
    assert all(f"row {number}" in said for number in (5, 12, 18))


def test_a_file_without_a_usable_row_stops_the_run_before_a_weight_is_loaded(cache, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UserError, match="No usable record: all 1 rows were set aside"):
        perform(
            tmp_path / "run", "model=tiny", f"model.cache_dir={cache}", "data=jsonl", f"data.path={path}",
            f"store.dir={tmp_path}/store", "sampler.max_new_tokens=8",
        )  # fmt: skip
    assert not (tmp_path / "store/same_policy").exists(), "nothing was sampled or scored"


def intake(**settings):
    plain = {"records_per_conversation": "all", "max_records": None, "seed": 0, "languages": None, "near_duplicates": None}
    return Intake(**plain | {"drop_flagged": [], "redact": False, "leakage": "remove"} | settings)


def test_max_records_is_a_seeded_choice_that_does_not_depend_on_the_rows_order(tmp_path):
    path = feedback_file(tmp_path / "log.jsonl")

    def picked(seed):
        found = intake(max_records=5, seed=seed).collect(jsonl(path), Rules())
        return [record.key for record in found.records]

    first, again, other = picked(0), picked(0), picked(1)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(reversed(lines)) + "\n")
    assert first == again and set(first) != set(other) and len(first) == 5
    assert picked(0) == first[::-1]


def jsonl(path):
    return Jsonl(path=str(path), config=None, split=None, ignore_fields=[])


def messages(path):
    return Messages(path=str(path), config=None, split=None, displeased_up_to=None, pleased_from=None, ignore_fields=[])


def chat(*turns, name="a"):
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    talk = Conversation(id=name, thread=name, messages=messages, opinions=None, revised={}, flags=(), file="x", row=1)
    return with_opinions([talk], Rules())[0]


def test_records_of_a_conversation_carry_prompt_reply_feedback_and_the_later_answer():
    talk = chat("Sum it up.", "Long text.", "You forgot the end", "Short text.", "thanks", "Welcome.", name="abc")
    dsat, sat = to_records(talk, "test")
    assert (dsat.label, [m["content"] for m in dsat.prompt], dsat.reply) == ("dsat", ["Sum it up."], "Long text.")
    assert (dsat.feedback, dsat.revised, dsat.satisfied) == ("You forgot the end", "Short text.", True)
    assert (sat.label, len(sat.prompt), sat.reply) == ("sat", 3, "Short text.")
    assert dsat.conversation == sat.conversation == "abc"
    assert dsat.provenance == {
        "source": "test", "file": "x", "row": 1, "turn": 1, "label": "dsat", "category": "ignored",
        "confidence": dsat.provenance["confidence"], "detector": "rules", "evidence": "You forgot",
    }  # fmt: skip


def test_one_record_a_conversation_or_all(tmp_path):
    talk = [
        {"role": ("user", "assistant")[i % 2], "content": text}
        for i, text in enumerate(["Hi", "Yo", "wrong", "Ho", "wrong", "He", "thanks"])
    ]
    (tmp_path / "log.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    source = messages(tmp_path / "log.jsonl")
    every, one = (intake(records_per_conversation=how).collect(source, Rules()).records for how in ("all", "one"))
    assert len(every) == 3 and len(one) == 1 and one[0] in every


def test_equal_and_nearly_equal_conversations_are_taken_once_and_named(tmp_path):
    words = [f"word{i}" for i in range(60)]
    texts = [" ".join(words), " ".join(words), " ".join([*words[:59], "other"]), " ".join(reversed(words))]
    rows = [{"id": f"c{i}", "messages": [{"role": "user", "content": t}, {"role": "assistant", "content": "x", "feedback": "down"}]}
            for i, t in enumerate(texts)]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = messages(tmp_path / "log.jsonl")
    for threshold, kept in ((None, ["c0", "c2", "c3"]), (0.8, ["c0", "c3"])):
        found = intake(near_duplicates=threshold).collect(source, Rules())
        assert [record.conversation for record in found.records] == kept
        assert {row["reason"] for row in found.set_aside} == {"duplicate"} and found.set_aside[0]["found"] == "equal to c0:1"


def test_languages_that_are_not_wanted_are_set_aside(tmp_path):
    said = {
        "en": "Please write a short letter to my landlord about the broken heating",
        "de": "Bitte schreibe einen kurzen Brief an den Vermieter",
    }
    rows = [
        {"id": k, "messages": [{"role": "user", "content": t}, {"role": "assistant", "content": "x", "rating": -1}]}
        for k, t in said.items()
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = intake(languages=["en"]).collect(messages(tmp_path / "log.jsonl"), Rules())
    assert [record.conversation for record in found.records] == ["en"]
    assert [(row["reason"], row["found"]) for row in found.set_aside] == [("language", "de")]


def test_addresses_numbers_and_keys_are_redacted_everywhere_in_a_record(tmp_path):
    secret = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
    said = f"Mail jo.doe+x@example.org or call +49 30 901820, (650) 253-0000. The key is {secret}, version 1.2.3 of 2024."
    rows = [
        {
            "messages": [
                {"role": "user", "content": said},
                {"role": "assistant", "content": said, "feedback": "down", "comment": said},
            ]
        }
    ]
    (tmp_path / "log.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (record,) = intake(redact=True).collect(messages(tmp_path / "log.jsonl"), Rules()).records
    for text in (record.prompt[0]["content"], record.reply, record.feedback):
        assert text == "Mail [EMAIL] or call [PHONE], [PHONE]. The key is [KEY], version 1.2.3 of 2024."


CHECKS = [
    ("one_sentence", "Tea is a warm drink.", True),
    ("one_sentence", "Tea is warm. It is a drink.", False),
    ("one_sentence", "Tea is a warm drink", False),
    ("one_sentence_of_15_words", "Tea is " + " ".join(f"word{i}" for i in range(13)) + ".", True),
    ("one_sentence_of_15_words", "Tea is " + " ".join(f"word{i}" for i in range(12)) + ".", False),
    ("one_sentence_of_15_words", "Tea is warm. It is " + " ".join(f"word{i}" for i in range(13)) + ".", False),
    ("at_most_two_sentences", "Tea is warm. It is a drink.", True),
    ("at_most_two_sentences", "Tea is warm. It is a drink. I like it.", False),
    ("at_most_20_words", "Tea is warm. It is a drink.", True),
    ("at_most_20_words", "Tea is " + " ".join(f"word{i}" for i in range(18)), True),
    ("at_most_20_words", "Tea is " + " ".join(f"word{i}" for i in range(19)), False),
    ("at_most_30_words", "Tea is warm and good.", True),
    ("at_most_30_words", "Tea is " + " ".join(f"word{i}" for i in range(29)), False),
    ("at_most_40_words", "Tea is " + " ".join(f"word{i}" for i in range(38)), True),
    ("at_most_40_words", "Tea is " + " ".join(f"word{i}" for i in range(39)), False),
    ("at_least_10_words", "Tea is " + " ".join(f"word{i}" for i in range(8)), True),
    ("at_least_10_words", "Tea is " + " ".join(f"word{i}" for i in range(7)), False),
    ("at_least_two_sentences", "Tea is warm. It is a drink.", True),
    ("at_least_two_sentences", "Tea is warm; it is a drink.", False),
    ("a_long_word", "Tea is delicious.", True),
    ("a_long_word", "Tea is so well-made.", False),
    ("no_long_words", "Tea is delicious.", True),
    ("no_long_words", "Tea is refreshingly warm.", False),
    ("no_list", "Tea is warm - and good.", True),
    ("no_list", "Tea is:\n- warm\n- good", False),
    ("no_list", "1. Tea is warm.\n2. Tea is good.", False),
]


@pytest.mark.parametrize(("request_name", "reply", "expected"), CHECKS)
def test_every_request_has_an_exact_check(request_name, reply, expected):
    assert verify({"topic": "tea", "request": request_name}, reply, ended=True).met is expected
    assert {name for name, _, _ in CHECKS} == set(REQUESTS) == {name for users in SETS.values() for name in users.requests}


def test_a_useful_reply_is_on_topic_sound_and_whole_too():
    truth = {"topic": "tea", "request": "a_long_word"}
    assert verify(truth, "Tea is delicious and good.", ended=True).useful
    assert not verify(truth, "Tea is delicious and good.", ended=False).useful
    assert not verify(truth, "Coffee is delicious and good.", ended=True).on_topic
    assert not verify(truth, "Delicious tea.", ended=True).sound
    assert not verify(truth, "tea delicious tea tea tea tea tea", ended=True).sound
    assert verify({"topic": "knives", "request": "a_long_word"}, "A knife is versatile and useful.", ended=True).on_topic


def test_the_simulated_user_complains_about_what_is_wrong_first():
    truth = {"topic": "tea", "request": "a_long_word"}
    said = lambda label, reply, ended=True: next_turn(0, "key", label, truth, verify(truth, reply, ended=ended))  # noqa: E731
    assert "letters" in said("dsat", "Tea is warm.", ended=False)
    assert "tea" in said("dsat", "Cars are dangerous and loud.", ended=False)
    assert "answer" in said("dsat", "Tea is delicious and", ended=False)
    assert "letters" in said("dsat", "Tea is delicious and good."), "an unfounded complaint"
    assert said("sat", "Tea is warm.") == said("sat", "Tea is delicious and good.") and "letters" not in said("sat", "Tea is warm.")
    assert said("silent", "Tea is warm.") is None


USERS = [(f"user {i}", i < 600) for i in range(1000)]  # 600 of 1,000 got a useful reply


def counted(**rates):
    """(praise of happy users, praise of unhappy ones, complaints of unhappy ones, complaints of happy ones)"""
    clean = {"complaint_rate": 1.0, "praise_rate": 1.0, "false_praise": 0.0, "unfounded": 0.0}
    labels = Rates(**(clean | rates)).labels(0, USERS)
    pairs = [(label, happy) for label, (_, happy) in zip(labels, USERS, strict=True)]
    return tuple(pairs.count(pair) for pair in [("sat", True), ("sat", False), ("dsat", False), ("dsat", True)])


def test_users_speak_at_the_given_rates_and_are_wrong_at_the_given_shares():
    assert counted() == (600, 0, 400, 0)
    assert counted(praise_rate=0.0) == (0, 0, 400, 0)
    praise, _, complaints, _ = counted(praise_rate=0.125, complaint_rate=0.5)
    assert abs(praise - 75) < 25 and abs(complaints - 200) < 30  # three standard deviations
    right, wrong, complaints, unfounded = counted(praise_rate=0.2, complaint_rate=0.5, false_praise=0.25, unfounded=0.17)
    assert abs(right - 90) < 26 and abs(wrong - 30) < 16, "120 praise, a quarter of them false"
    assert abs(complaints - 166) < 30 and abs(unfounded - 34) < 17, "200 complain, 17 % of them without reason"
    assert counted(unfounded=1.0) == (200, 0, 0, 400) or abs(counted(unfounded=1.0)[3] - 400) < 36


def test_who_speaks_at_a_low_rate_speaks_at_a_higher_one_too():
    few, more = (Rates(complaint_rate=rate, praise_rate=rate, false_praise=0, unfounded=0).labels(3, USERS) for rate in (0.25, 0.5))
    assert all(high == low for low, high in zip(few, more, strict=True) if low != "silent")
    assert few.count("silent") > more.count("silent") > 0


def deployment(**changes):
    plain = {"seed": 0, "num_prompts": 8, "second_tries": False, "system": None, "requests": "mixed"}
    rates = {"complaint_rate": 1.0, "praise_rate": 1.0, "false_praise": 0.0, "unfounded": 0.0}
    return Deployment(**(plain | rates | {"deployed": Deployed(policy=None, temperature=None, system=None)} | changes))


def test_topics_are_split_without_overlap_and_tasks_are_seeded():
    split = split_topics()
    assert not set(split["train"]) & set(split["test"]) and not set(split["validation"]) & set(split["test"])
    assert not set(split["train"]) & set(split["validation"])
    tasks = [deployment(seed=s).tasks("test", 24) for s in (0, 0, 1)]
    assert tasks[0] == tasks[1] != tasks[2]
    assert all(task.truth["topic"] in split["test"] for task in tasks[0]) and len({t.key for t in tasks[0]}) == 24


def test_records_that_are_too_long_or_empty_are_set_aside_and_never_cut(tokenizer):
    records = list(to_records(chat("Hi", "word " * 50, "thanks", "ok", "that's wrong"), "test"))
    kept, aside = usable(records, tokenizer, max_tokens=200, max_new_tokens=20)
    assert kept == [] and [row["reason"] for row in aside] == ["too long", "too long"]
    assert "tokens" in aside[0]["found"] and aside[0]["record"] == "a:1"
    kept, aside = usable(records, tokenizer, max_tokens=1000, max_new_tokens=20)
    assert len(kept) == 2 and not aside


def test_a_second_answer_that_is_too_long_is_named_and_its_record_kept_without_it(tokenizer):
    talk = chat("Hi", "short", "that's wrong", "word " * 80, "thanks")
    kept, aside = usable(list(to_records(talk, "test"))[:1], tokenizer, max_tokens=300, max_new_tokens=20)
    assert (kept[0].reply, kept[0].revised, kept[0].satisfied) == ("short", None, False)
    assert [row["reason"] for row in aside] == ["second answer too long"]


@pytest.mark.parametrize(
    "comment", ["See mail of jane.doe@example.com about this", "x" * 40 + " see jane.doe@example.com", "jane.doe@example.com"]
)
def test_what_was_found_in_a_row_that_is_set_aside_is_redacted_too(comment, tmp_path):
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "comment": comment}]}
    (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
    for redact, expected in ((True, 0), (False, 1)):
        (aside,) = intake(redact=redact).collect(messages(tmp_path / "log.jsonl"), Rules()).set_aside
        assert aside["found"].count("jane.doe") == expected, aside


def test_a_reply_in_json_stays_as_it_is_and_text_parts_that_a_table_stored_as_text_are_joined(tmp_path):
    for reply, expected in (
        ('[{"type": "button", "text": "OK"}]', '[{"type": "button", "text": "OK"}]'),
        ('[{"type": "text", "text": "Hi"}]', "Hi"),
    ):
        row = {
            "messages": [
                {"role": "user", "content": "A button, as JSON."},
                {"role": "assistant", "content": reply, "feedback": "up"},
            ]
        }
        (tmp_path / "log.jsonl").write_text(json.dumps(row) + "\n")
        (record,) = intake().collect(messages(tmp_path / "log.jsonl"), Rules()).records
        assert record.reply == expected


def test_training_prompts_that_the_evaluation_asks_are_removed_refused_or_kept():
    long = " ".join(f"word{i}" for i in range(40))
    asked = [chat("What is tea?", "x", "wrong"), chat(long, "x", "wrong")]
    mine = [
        chat("what is TEA", "y", "wrong", name="equal"),
        chat("Please: " + " ".join(long.split()[5:20]), "y", "wrong", name="thirteen"),
        chat("What is coffee?", "y", "wrong", name="other"),
        chat("What is tea made of?", "y", "wrong", name="near but short"),
    ]
    records, prompts = [next(to_records(c, "t")) for c in mine], [next(to_records(c, "t")).prompt for c in asked]
    kept, aside = remove_leaked(records, prompts, "remove")
    assert [record.conversation for record in kept] == ["other", "near but short"]
    assert [(row["record"], row["found"]) for row in aside] == [("equal:1", "equal"), ("thirteen:1", "13 words in a row")]
    assert remove_leaked(records, prompts, "keep")[0] == records
    with pytest.raises(UserError, match="All 1 training records have prompts that overlap"):
        remove_leaked([record for record in records if record not in kept][:1], prompts, "remove")
    with pytest.raises(UserError, match="2 training records have prompts that the evaluation uses; the first is equal:1"):
        remove_leaked(records, prompts, "refuse")


def test_a_logs_key_holds_its_content_its_settings_and_its_miner(tmp_path):
    path, copy = feedback_file(tmp_path / "log.jsonl"), tmp_path / "elsewhere.jsonl"
    copy.write_bytes(path.read_bytes())

    def key(file=path, miner=None, **settings):
        return intake(**settings).key(jsonl(file), miner or Rules())

    other = feedback_file(tmp_path / "other.jsonl", dsat=3)
    judge = {"sat_threshold": 0.5}
    settings = {"max_records": 3, "seed": 1, "languages": ["en"], "near_duplicates": 0.9, "drop_flagged": ["toxic"], "redact": True,
                "records_per_conversation": "one"}  # fmt: skip
    changed = [
        key(other),
        key(miner=Classifier(dsat_threshold=0.5, **judge)),
        key(miner=Classifier(dsat_threshold=0.6, **judge)),
        *(key(**{name: value}) for name, value in settings.items()),
    ]
    assert key() == key(copy) == key(leakage="keep"), "a copy elsewhere is the same log, and leakage is looked at later"
    assert all(one != other for i, one in enumerate([key(), *changed]) for other in changed[i:])
