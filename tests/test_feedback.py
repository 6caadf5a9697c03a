"""What a user said about a reply is read where it stands, whatever its form, or asked about; never passed over, never misread."""

import gzip
import json
import math

import pytest
from conftest import collected

from drift.errors import UserError
from drift.mine.classifier import Classifier

ASK, REPLY = "What should a visitor of Porto see first?", "Begin at the old market, then follow the river."
USER, ASSISTANT = {"role": "user", "content": ASK}, {"role": "assistant", "content": REPLY}
SMALL = {"sat_threshold": 0.40, "dsat_threshold": 0.68}  # conf/mine/classifier.yaml


def log(*marks, beside=None, **more):
    """Rows of one question and one reply with these marks on it."""
    return [{"id": f"c{i}", "messages": [USER, ASSISTANT | mark]} | (beside or {}) | more for i, mark in enumerate(marks)]


def labels(found):
    return [record.label for record in found.records]


def reasons(found):
    return [(row["reason"], row["field"]) for row in found.set_aside]


UP = [
    "up", "thumbsUp", "thumbs_up", "Upvote", "positive", "good", "like", "Liked", "helpful", "👍", "👍🏽", "true", True,
    1, 1.0, "1", "+1",
]  # fmt: skip
DOWN = [
    "down", "thumbsDown", "thumbs-down", "negative", "bad", "dislike", "not helpful", "👎", "False", False, -1, -1.0, "-1",
]  # fmt: skip


@pytest.mark.parametrize("name", ["feedback", "thumbs", "rating", "label"])
def test_marks_in_their_usual_words_are_read(name, tmp_path):
    for values, label in ((UP, "sat"), (DOWN, "dsat")):
        inside = [[{"annotation": {name: value}} for value in values]] if name != "feedback" else []
        for marks in ([{name: value} for value in values], *inside):
            rows = [
                row | {"messages": [{"role": "user", "content": f"Day {i}?"}, row["messages"][1]]}
                for i, row in enumerate(log(*marks))
            ]
            found = collected(tmp_path / "log.jsonl", rows)
            assert labels(found) == [label] * len(marks) and not found.set_aside


def test_no_click_is_no_feedback_and_an_unknown_word_is_set_aside(tmp_path):
    turns = [*log({})[0]["messages"], {"role": "user", "content": "That is wrong."}, ASSISTANT]
    for nothing in (None, "", " ", "none", math.nan, {}, []):
        for mark in ({"rating": nothing}, {"feedback": nothing, "comment": nothing}, {"annotation": {"rating": nothing}}):
            row = {"messages": [turns[0], turns[1] | mark, *turns[2:]]}
            assert labels(collected(tmp_path / "log.jsonl", [row])) == ["dsat"], "the miner reads what the user said next"
    for large in (10**400, math.inf, str(10**400), 1764000000123):
        found = collected(tmp_path / "log.jsonl", log({"rating": large}), displeased_up_to=2, pleased_from=4)
        assert reasons(found) == [("malformed row", "messages[1].rating")]
    marks = ({"thumbs": "meh"}, {"label": "travel"}, {"feedback": {"up": 0, "down": 1, "id": 3}}, {"rating": "neutral"})
    found = collected(tmp_path / "log.jsonl", log(*marks))
    fields = ["messages[1].thumbs", "messages[1].label", "messages[1].feedback"]
    assert reasons(found) == [("malformed row", field) for field in fields]
    assert "data.ignore_fields=[label]" in found.set_aside[1]["remedy"]
    assert found.facts["conversations without feedback"] == 1, "neither pleased nor displeased"


def test_a_scale_that_is_not_known_is_refused_with_the_settings_that_say_what_it_means(tmp_path):
    stars = log(*({"rating": value} for value in (0, 1, 2, 3, 4, 5)))
    half, signed = log({"rating": 1.0}, {"rating": 4.0}), log({"rating": -1}, {"rating": 0})
    for rows in (stars, half, signed, log({"thumbs": "5"}), log({}, rating=3)):
        with pytest.raises(UserError, match="data.displeased_up_to=2 data.pleased_from=4 for one to five stars"):
            collected(tmp_path / "log.jsonl", rows)
    found = collected(tmp_path / "log.jsonl", stars, displeased_up_to=2, pleased_from=4, intake={"near_duplicates": None})
    assert {(record.label, record.id) for record in found.records} == {("dsat", "c0:1"), ("sat", "c4:1")} or len(found.records) == 1
    assert found.facts["replies with contradictory votes"] == 1, "five ratings of one reply: three displeased, two pleased"
    assert labels(collected(tmp_path / "log.jsonl", signed, displeased_up_to=-1, pleased_from=1)) == ["dsat"], "0 is no opinion"
    assert labels(collected(tmp_path / "log.jsonl", log({"rating": 0}), displeased_up_to=0, pleased_from=1)) == ["dsat"]
    with pytest.raises(UserError, match="expected both, the first one lower"):
        collected(tmp_path / "log.jsonl", signed, displeased_up_to=2, pleased_from=None)


def test_a_file_of_nothing_but_ones_may_be_complaints_and_is_asked_about(tmp_path):
    """The rows `WHERE rating = 1` of five-star ratings are the disliked replies; taken for thumbs up they would be praise."""
    ones = [{"messages": [USER | {"content": f"Day {i}?"}, ASSISTANT | {"rating": 1}]} for i in range(3)]
    with pytest.raises(
        UserError, match=r"log.jsonl, row 1: messages\[1\].rating is 1, and so is every mark .* worst of five stars"
    ):
        collected(tmp_path / "log.jsonl", ones)
    assert labels(collected(tmp_path / "log.jsonl", ones, displeased_up_to=2, pleased_from=4)) == ["dsat"] * 3
    assert labels(collected(tmp_path / "log.jsonl", ones, displeased_up_to=-1, pleased_from=1)) == ["sat"] * 3
    for other in ({"rating": -1}, {"rating": "up"}, {"thumbs": False}, {"thumbs": 1}):
        found = collected(tmp_path / "log.jsonl", [*ones, *log(other)])
        assert labels(found)[:3] == ["sat"] * 3, "thumbs, as the other mark shows"


def test_a_row_without_the_fields_of_its_source_is_refused_with_those_that_it_has(tmp_path):
    row = {"question": ASK, "answer": REPLY, "rating": "bad"}
    with pytest.raises(
        UserError, match="row 1: answer looks like a reply, .* has no field messages. It has question, answer, rating"
    ):
        collected(tmp_path / "log.jsonl", [row])


def test_marks_that_contradict_one_another_or_stand_on_no_reply_are_set_aside(tmp_path):
    rows = [
        *log({"feedback": "down", "rating": 1}),
        *log({"feedback": "down"}, beside={"label": True}),
        {"messages": [USER | {"feedback": "up"}, ASSISTANT]},
        {"messages": [USER | {"comment": "Hm, I meant Lisbon."}, ASSISTANT]},
        {"messages": [USER], "feedback": "down"},
    ]
    found = collected(tmp_path / "log.jsonl", rows)
    fields = ["messages[1].feedback", "messages", "messages[0].feedback", "messages[0].comment", "messages"]
    assert [row["field"] for row in found.set_aside] == fields and not found.records


def test_marks_beside_the_messages_are_about_the_last_reply(tmp_path):
    talk = [USER, ASSISTANT, {"role": "user", "content": "thanks, that is great"}, {"role": "assistant", "content": "Good."}]
    marks = ({"feedback": "down"}, {"label": False}, {"annotation": {"rating": -1}}, {"feedback": {"rating": "thumbsDown"}})
    for beside in marks:
        (record,) = collected(tmp_path / "log.jsonl", [{"messages": talk} | beside]).records
        assert (record.label, record.reply, len(record.prompt)) == ("dsat", "Good.", 3), beside
    found = collected(tmp_path / "log.jsonl", [{"messages": talk, "feedback": "down"}, *log({}, kto_tag=True)])
    assert found.facts["used although flagged: whole_conversation"] == 1 and labels(found) == ["dsat", "sat"]
    strict = {"drop_flagged": ["whole_conversation"]}
    assert labels(collected(tmp_path / "log.jsonl", intake=strict)) == ["sat"], "one reply: no guess is needed"
    user_last = {"messages": [*talk[:3]], "feedback": "down", "comment": "No river there."}
    (record,) = collected(tmp_path / "log.jsonl", [user_last]).records
    assert (record.reply, record.feedback) == (REPLY, "No river there.")


def test_a_comment_belongs_to_its_reply_wherever_it_stands(tmp_path):
    later = [{"role": "user", "content": "And where do I sleep?"}, {"role": "assistant", "content": "At the inn."}]
    mark = {"rating": -1, "comment": "You named the wrong market."}
    (record,) = collected(tmp_path / "log.jsonl", [{"messages": [USER, ASSISTANT | mark, *later]}]).records
    assert (record.feedback, record.revised) == ("You named the wrong market.", None)
    rows = log({"comment": "This is wrong, there is no river."}, {"feedback": "This is wrong, there is no river."})
    for row in rows:
        (record,) = collected(tmp_path / "log.jsonl", [row]).records
        assert (record.label, record.feedback) == ("dsat", "This is wrong, there is no river.")
        assert record.provenance["detector"] == "rules"
    first = ASSISTANT | {"comment": "That is wrong."}
    found = collected(tmp_path / "log.jsonl", [{"messages": [USER, first, *later[:1], later[1] | {"feedback": "up"}]}])
    assert labels(found) == ["dsat", "sat"], "a click elsewhere leaves no comment unread"
    found = collected(tmp_path / "log.jsonl", log({"comment": "See ticket 4711."}))
    assert found.facts["unclear comments"] == 1
    assert reasons(found) == [("unclear comment", "messages")] and "See ticket" in found.set_aside[0]["found"]


def test_empty_comments_are_ignored(tmp_path):
    for empty in ("", "  ", None):
        found = collected(tmp_path / "log.jsonl", log({"rating": -1, "comment": empty}, {"feedback": "down"}))
        assert [(r.label, r.feedback) for r in found.records] == [("dsat", None)] and reasons(found) == [("duplicate", "messages")]


@pytest.mark.parametrize(("said", "complaint"), [("No, two sentences please.", True), ("no. Shorter", True), ("No thanks.", False)])
def test_a_turn_that_begins_with_no_after_a_thumb_down_is_a_complaint(tmp_path, said, complaint):
    """And the reply to it, which pleased, is the better one: a pair."""
    after = [{"role": "user", "content": said}, {"role": "assistant", "content": "The market."}]
    turns = [USER, ASSISTANT | {"feedback": "down"}, *after]
    found = collected(tmp_path / "log.jsonl", [{"messages": turns}]).records
    assert [(record.feedback, record.revised) for record in found] == [(said, "The market.") if complaint else (None, None)]


def test_an_unrelated_question_after_a_click_is_no_complaint_and_its_answer_no_better_reply(tmp_path):
    def row(said, *mark):
        answer = {"role": "assistant", "content": "Two coins."}
        return {"messages": [USER, ASSISTANT | {"rating": -1}, {"role": "user", "content": said}, answer | dict(mark)]}

    for miner in (None, Classifier(**SMALL)):
        question = row("How much is a coffee in Porto?", ("rating", 1))
        asked, liked = collected(tmp_path / "log.jsonl", [question], miner=miner).records
        assert (asked.label, asked.feedback, asked.revised, asked.satisfied) == ("dsat", None, None, False)
        assert (liked.label, liked.reply) == ("sat", "Two coins.")
        said = "No, that is wrong. I asked for one sight."
        wrong, _ = collected(tmp_path / "log.jsonl", [row(said, ("rating", 1))], miner=miner).records
        assert (wrong.feedback, wrong.revised, wrong.satisfied) == (said, "Two coins.", True)
        (thanked,) = collected(tmp_path / "log.jsonl", [row("thanks, perfect!")], miner=miner).records
        assert (thanked.label, thanked.feedback, thanked.revised) == ("dsat", None, None), "thanks are no complaint"


LOOKS_LIKE_FEEDBACK = [
    "vote", "reaction", "userRating", "user_score", "thumbs_down_count", "satisfaction", "is_liked", "stars", "annotations",
    "dislikes", "review", "chosen", "rejected_messages", "expected_response", "better_answer", "instruction", "systemInstruction",
    "developer_prompt", "user_comment", "critique", "CSAT", "evaluation", "was_useful", "resolved", "survey",
]  # fmt: skip
HARMLESS = {
    "model": "m", "timestamp": 3, "tokens": 5, "completion_tokens": 7, "response_time": 0.2, "response_id": "r", "name": "x",
    "system_fingerprint": "f", "tools": [{"type": "function"}], "finish_reason": "stop", "metadata": {"app": "x", "score": None},
    "likes": None, "rating_id": "r1", "lang": "en", "cost": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKS_LIKE_FEEDBACK)
def test_a_field_that_looks_like_feedback_a_reply_or_a_system_prompt_is_asked_about(name, tmp_path):
    for row in (log({})[0] | {name: "x"}, *log({name: False}), log({})[0] | {"meta": {"inner": [{name: 0}]}}):
        with pytest.raises(UserError, match=rf"row 1: the field \S*{name} looks like .* data.ignore_fields=\["):
            collected(tmp_path / "log.jsonl", [row])
    assert collected(tmp_path / "log.jsonl", [log({"rating": -1})[0] | {name: "x"}], ignore_fields=[name]).records


def test_harmless_fields_are_passed_over_in_every_source(tmp_path):
    pair = {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
    human, wrong = {"from": "human", "value": ASK}, {"from": "human", "value": "That is wrong."}
    shared = [human | HARMLESS, {"from": "gpt", "value": REPLY}, wrong]
    rows = {
        "messages": {"messages": [USER | HARMLESS, ASSISTANT | HARMLESS | {"rating": -1}]},
        "sharegpt": {"conversations": shared},
        "wildchat": {"conversation": [USER, ASSISTANT, {"role": "user", "content": "That is wrong."}]},
        "jsonl": {"prompt": [USER], "rejected": [ASSISTANT]},
        "preference": {"prompt": ASK, "chosen": "a", "rejected": "b"},
        "wildfeedback_pairs": {"conversations": [{"from": "human", "value": ASK}], **pair},
    }
    for source, row in rows.items():
        assert collected(tmp_path / "log.jsonl", [row | HARMLESS], source=source).records, source
        with pytest.raises(UserError, match="the field thumb looks like a user's opinion"):
            collected(tmp_path / "log.jsonl", [row | {"thumb": 1}], source=source)


def test_a_system_prompt_beside_the_turns_is_the_first_message_in_every_source(tmp_path):
    french = "Answer in French only."
    human, gpt = {"from": "human", "value": ASK}, {"from": "gpt", "value": REPLY}
    rows = [
        ("messages", {"messages": [USER, ASSISTANT | {"feedback": "down"}]}),
        ("sharegpt", {"conversations": [human, gpt, human | {"value": "No, that's wrong."}]}),
        ("wildchat", {"conversation": [USER, ASSISTANT, {"role": "user", "content": "No, that's wrong."}]}),
        ("jsonl", {"prompt": [USER], "rejected": [ASSISTANT]}),
        ("preference", {"prompt": ASK, "chosen": "Le marché.", "rejected": REPLY}),
        ("preference", {"prompt": [USER], "chosen": "Le marché.", "rejected": REPLY}),
        ("preference", {"chosen": [USER, {"role": "assistant", "content": "Le marché."}], "rejected": [USER, ASSISTANT]}),
        ("wildfeedback_pairs", {"conversations": [human], "chosen": gpt | {"value": "Le marché."}, "rejected": gpt}),
    ]
    for source, row in rows:
        for name in ("system", "system_prompt"):
            record = collected(tmp_path / "log.jsonl", [row | {name: french}], source=source).records[0]
            assert record.prompt[0] == {"role": "system", "content": french} and record.reply == REPLY, (source, row)
    own = {"role": "system", "content": french}
    (record,) = collected(tmp_path / "log.jsonl", [{"system": french, "messages": [own, USER, ASSISTANT | {"rating": -1}]}]).records
    assert len(record.prompt) == 2, "the same twice is once"
    other = collected(tmp_path / "log.jsonl", [{"system": "Be kind.", "messages": [own, USER, ASSISTANT | {"rating": -1}]}])
    assert reasons(other) == [("malformed row", "messages[0].content")]
    turn = {"conversations": [{"from": "system", "value": french}, *rows[1][1]["conversations"]]}
    assert collected(tmp_path / "log.jsonl", [turn], source="sharegpt").records[0].prompt[0]["content"] == french


def test_a_worse_reply_beside_the_messages_makes_a_pair(tmp_path):
    (dsat, sat) = collected(tmp_path / "log.jsonl", [log({})[0] | {"rejected_response": "I do not know."}]).records
    assert (dsat.label, dsat.reply, dsat.revised, dsat.satisfied) == ("dsat", "I do not know.", REPLY, True)
    assert (sat.label, sat.reply) == ("sat", REPLY)
    wrong = [log({})[0] | {"rejected_response": REPLY}, log({"rating": -1})[0] | {"rejected_response": "I do not know."},
             log({})[0] | {"rejected_response": {"role": "user", "content": "x"}}]  # fmt: skip
    found = collected(tmp_path / "log.jsonl", wrong)
    fields = ["rejected_response", "rejected_response", "rejected_response[0].role"]
    assert not found.records and [row["field"] for row in found.set_aside] == fields


def test_a_side_of_a_pair_is_the_assistants_reply_or_the_row_is_set_aside(tmp_path):
    season, summer = {"role": "assistant", "content": "Which season?"}, {"role": "user", "content": "Summer."}
    good, human = {"role": "assistant", "content": "Good."}, {"from": "human", "value": ASK}
    (whole,) = collected(tmp_path / "log.jsonl", [{"prompt": [USER], "rejected": [USER, ASSISTANT]}], source="jsonl").records
    assert whole.reply == REPLY
    (last, _) = collected(
        tmp_path / "log.jsonl", [{"prompt": [USER], "chosen": [USER, good], "rejected": [USER, ASSISTANT]}], source="preference"
    ).records
    assert (last.reply, last.revised) == (REPLY, "Good.")
    one = {"prompt": ASK, "chosen": [good], "rejected": [ASSISTANT]}
    assert labels(collected(tmp_path / "log.jsonl", [one], source="preference")) == ["dsat", "sat"]
    for source, row in (
        ("preference", {"prompt": ASK, "chosen": [USER], "rejected": [ASSISTANT]}),
        ("jsonl", {"prompt": [USER], "rejected": [season, summer, ASSISTANT]}),
        ("jsonl", {"prompt": [USER], "rejected": [USER]}),
        ("jsonl", {"prompt": [USER], "rejected": [summer, ASSISTANT]}),
        ("jsonl", {"prompt": [USER], "rejected": [ASSISTANT], "chosen": [ASSISTANT]}),
        ("preference", {"prompt": [USER], "chosen": [USER], "rejected": [ASSISTANT]}),
        ("preference", {"prompt": [USER], "chosen": [good], "rejected": [{"role": "system", "content": "Nor is this."}]}),
        ("wildfeedback_pairs", {"conversations": [human], "chosen": {"from": "gpt", "value": "a"}, "rejected": human}),
    ):
        found = collected(tmp_path / "log.jsonl", [row], source=source)
        assert not found.records and [reason for reason, _ in reasons(found)] == ["malformed row"], (source, row)


def test_scores_are_compared_whatever_kind_of_number_they_are(tmp_path):
    kinds = [(2, 8, 0), (9, 3, 1), (2.0, 8.0, 0), (9.5, 3, 1), ("2", "8", 0), (5, 5, 0), (None, 3, 1)]
    for names in (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating")):
        for better, worse, used in kinds:
            row = {"prompt": ASK, "chosen": "a", "rejected": "b"} | dict(zip(names, (better, worse), strict=True))
            found = collected(tmp_path / "log.jsonl", [row], source="preference")
            assert bool(found.records) == bool(used) == (not found.set_aside), row


def test_turns_marked_in_a_prompt_text_are_set_aside_or_kept_by_a_setting(tmp_path):
    row = {"prompt": f"\n\nHuman: {ASK}\n\nAssistant: When?\n\nHuman: In summer.\n\nAssistant:", "chosen": " a", "rejected": " b"}
    found = collected(tmp_path / "log.jsonl", [row], source="preference")
    assert reasons(found) == [("turns in one text", "prompt")] and "data.turn_markers=keep" in found.set_aside[0]["remedy"]
    assert len(collected(tmp_path / "log.jsonl", source="preference", turn_markers="keep").records) == 2
    plain = row | {"prompt": "Is a human: assistant pair of words fine?"}
    assert len(collected(tmp_path / "log.jsonl", [plain], source="preference").records) == 2


def test_lists_of_messages_and_marks_that_came_as_text_are_read(tmp_path):
    talk = [USER, ASSISTANT | {"annotation": json.dumps({"rating": -1, "comment": "No river."})}]
    for text in (json.dumps(talk), str(talk)):
        (record,) = collected(tmp_path / "log.jsonl", [{"messages": text}]).records
        assert (record.label, record.reply, record.feedback) == ("dsat", REPLY, "No river.")
    parts = {"role": "user", "content": json.dumps([{"type": "text", "text": ASK}])}
    assert collected(tmp_path / "log.jsonl", [{"messages": [parts, talk[1]]}]).records[0].prompt[0]["content"] == ASK
    pasted = {"role": "user", "content": '[{"type": "bug", "title": "What is this?"}]'}
    assert collected(tmp_path / "log.jsonl", [{"messages": [pasted, talk[1]]}]).records[0].prompt[0] == pasted
    row = {"prompt": json.dumps([USER]), "chosen": json.dumps([ASSISTANT]), "rejected": json.dumps([ASSISTANT | {"content": "b"}])}
    assert collected(tmp_path / "log.jsonl", [row], source="preference").records[0].prompt == [USER]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "price", "arguments": "{}"}}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "2.50"}


def test_turns_that_do_not_alternate_are_set_aside_with_what_to_do(tmp_path):
    for messages, words in (
        ([ASSISTANT, USER, ASSISTANT], "leave a greeting out"),
        ([USER, ASSISTANT, ASSISTANT], "join messages of one speaker"),
        ([USER, {"role": "model", "content": REPLY}], "rename the role: system, user, assistant"),
        ([USER, {"role": "system", "content": REPLY}], "correct the row"),
    ):
        (row,) = collected(tmp_path / "log.jsonl", [{"messages": messages, "feedback": "down"}]).set_aside
        assert row["field"].endswith(".role") and words in row["remedy"], messages


def test_text_parts_of_both_of_openais_interfaces_are_text(tmp_path):
    parts = [
        {"role": r, "content": [{"type": f"{t}put_text", "text": x}]}
        for r, t, x in (("user", "in", ASK), ("assistant", "out", REPLY))
    ]
    (record,) = collected(tmp_path / "log.jsonl", [{"messages": parts, "feedback": "down"}]).records
    assert (record.prompt, record.reply) == ([USER], REPLY)


def test_a_tool_call_costs_its_reply_and_no_other(tmp_path):
    priced, more = {"role": "assistant", "content": "It costs 2.50."}, {"role": "user", "content": "And tea?"}
    down = {"feedback": "down"}
    calls = [CALL | {"content": "Let me see."}, RESULT, CALL, RESULT]
    talk = [USER, ASSISTANT | down, more, *calls, priced | down, more, ASSISTANT | down]
    found = collected(tmp_path / "log.jsonl", [{"messages": talk}])
    first, last = found.records
    assert (first.id[-2:], last.id[-2:]) == (":1", ":5") and found.facts["replies that rest on a tool call, not used"] == 1
    assert [message["content"] for message in last.prompt] == [ASK, REPLY, "And tea?", "Let me see.\n\nIt costs 2.50.", "And tea?"]
    only = [{"messages": [USER, CALL, RESULT, priced | down]}, {"messages": [USER, CALL, more]}, {"messages": [USER, CALL | down]}]
    found = collected(tmp_path / "log.jsonl", only)
    assert not found.records and [row["reason"] for row in found.set_aside] == ["tool call", "malformed row", "tool call"]
    turns = [("human", ASK), ("function_call", "{}"), ("observation", "2.50"), ("gpt", "Two."), ("human", "That is wrong.")]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    found = collected(tmp_path / "log.jsonl", [row], source="sharegpt")
    assert not found.records and [row["reason"] for row in found.set_aside] == ["tool call"]


def test_rows_of_another_source_are_refused_with_the_source_to_give(tmp_path):
    shared = {"conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": REPLY}]}
    for source, row, words in (
        ("records", log({})[0], "look like data=messages, not like data=records.* drift mine"),
        ("records", shared, "look like data=sharegpt.* or mine them first"),
        ("messages", shared, "Use data=sharegpt"),
        ("sharegpt", log({})[0], "Use data=messages"),
        ("messages", {"prompt": ASK, "chosen": "a", "rejected": "b"}, "Use data=preference"),
    ):
        with pytest.raises(UserError, match=words):
            collected(tmp_path / "log.jsonl", [row], source=source)


def test_files_of_any_form_are_read_or_named(tmp_path):
    rows = [{"messages": [USER | {"content": f"Day {day}?"}, ASSISTANT | {"rating": 2 * day - 1}]} for day in (0, 1)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    marked = b"\xef\xbb\xbf" + text.encode()
    for name, data in (("a.jsonl", marked), ("a.JSONL", marked), ("a.ndjson", marked), ("a.jsonl.gz", gzip.compress(marked))):
        (tmp_path / name).write_bytes(data)
        assert labels(collected(tmp_path / name)) == ["dsat", "sat"], name
    folder = tmp_path / "logs"
    folder.mkdir()
    for name in ("1.jsonl", "2.jsonl.zst", "3.csv", "4.bz2", "README.md", ".hidden.csv"):
        (folder / name).write_text(text)
    found = collected(folder)
    assert [(row["found"], row["reason"]) for row in found.set_aside] == [
        (name, "file not read") for name in ("2.jsonl.zst", "3.csv", "4.bz2")
    ]
    array = json.dumps([json.loads(line) for line in text.splitlines()])
    for name, wrong in (("lines.json", text), ("array.jsonl", array), ("pretty.jsonl", json.dumps(json.loads(array), indent=1))):
        (tmp_path / name).write_text(wrong)
        assert labels(collected(tmp_path / name)) == ["dsat", "sat"], name
    (tmp_path / "wrapped.json").write_text(f'{{"version": 1, "rows": {array}}}')
    row = collected(tmp_path / "wrapped.json").set_aside[0]
    assert "a list under 'rows'" in row["found"] and "jq '.[\"rows\"]'" in row["remedy"]
