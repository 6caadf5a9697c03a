"""Every source of feedback, on a small file in its published form with its traps in it: what comes out, and that no row is lost."""

import dataclasses
import gzip
import json
import random

import pytest

from drift.data.jsonl import Jsonl
from drift.data.messages import Messages
from drift.data.preference import Preference
from drift.data.records import Records
from drift.data.sharegpt import ShareGpt
from drift.data.ultrafeedback import UltraFeedback
from drift.data.wildchat import WildChat
from drift.data.wildfeedback import WildFeedback
from drift.data.wildfeedback_pairs import WildFeedbackPairs
from drift.errors import UserError
from drift.intake.conversations import Conversation
from drift.intake.intake import Intake
from drift.intake.rows import Aside, bytes_read, read_rows
from drift.mine.rules import Rules
from drift.records import write_jsonl

INTAKE = Intake(
    records_per_conversation="all",
    max_records=None,
    seed=0,
    languages=None,
    near_duplicates=None,
    drop_flagged=["toxic"],
    redact=False,
    leakage="remove",
)


def items(source):
    return [item for file in source.files() for item in source.conversations(file)]


def collected(source, intake=INTAKE):
    return intake.collect(source, Rules())


PLAIN = {
    Messages: {"displeased_up_to": None, "pleased_from": None, "ignore_fields": [], "config": None, "split": None},
    Preference: {"turn_markers": "refuse", "ignore_fields": [], "config": None, "split": None},
    Jsonl: {"ignore_fields": [], "config": None, "split": None},
    **{kind: {"ignore_fields": []} for kind in (ShareGpt, WildChat, WildFeedbackPairs)},
}


def source(kind, path, **settings):
    """A source as its yaml sets it."""
    return kind(path=str(path), **PLAIN.get(kind, {}) | settings)


def lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def utterance(i, role, text, **flags):
    return {"UtteranceId": i, "TurnId": i // 2 + 1, "Role": role, "Content": text, "Preceeding": "YES", "State": "FEEDBACK"} | flags


def test_wildfeedback_annotations(tmp_path):
    """Misspelt keys, no conversation id, copied flags on Agent rows, both flags, a missing flag, an empty text, a cut array."""
    bad, good, none = {"Satisfaction": False, "Disatisfaction": True}, {"Satisfaction": True, "Disatisfaction": False}, {}
    rows = [
        utterance(0, "User", "Sum it up.", Satisfaction=False, Disatisfaction=False),
        utterance(1, "Agent", "A long text.", **good),  # copied from nowhere: must not count
        utterance(2, "User", "Shorter!", **bad, **{"Dissatisfaction-Justificiation": "too long"}),
        utterance(3, "Agent", "A text.", **bad),
        utterance(4, "User", "Thanks, but where is the end?", Satisfaction=True, Disatisfaction=True),
        utterance(5, "Agent", "The end."),
        utterance(6, "User", "Great.", **good),
        utterance(0, "User", "Hi", **none), utterance(1, "Agent", None), utterance(2, "User", "?", **bad),
        utterance(0, "User", "Hello"), utterance(1, "Agent", "Hello!"), utterance(2, "User", "ok", **none),
    ]  # fmt: skip
    text = json.dumps(rows)
    (tmp_path / "sat_dsat_annotation.json").write_text(text[:-1] + ', {"UtteranceId": 0, "Role"')
    found = collected(WildFeedback(path=str(tmp_path)))
    first, second, third = found.records
    assert [r.label for r in found.records] == ["dsat", "dsat", "sat"]
    assert (first.reply, first.feedback, first.revised, first.satisfied) == ("A long text.", "Shorter!", "A text.", False)
    assert [message["content"] for message in first.prompt] == ["Sum it up."]
    assert (second.reply, second.revised, second.satisfied) == ("A text.", "The end.", True)
    assert third.reply == "The end." and first.provenance["evidence"] == "too long" and second.provenance["label"] == "both"
    assert [(row["row"], row["field"]) for row in found.set_aside] == [(9, "Content"), (14, "(file)")]
    assert "ends inside this row" in found.set_aside[1]["found"]
    assert found.facts["conversations read"] == 4


def test_wildfeedback_goes_by_roles_and_not_by_places(tmp_path):
    rows = [
        utterance(0, "system", "Be nice."), utterance(1, "User", "q?"), utterance(2, "Agent", "a", Disatisfaction=True),
        utterance(3, "User", "No, wrong.", Disatisfaction=True), utterance(4, "Agent", "b"),
    ]  # fmt: skip
    (tmp_path / "sat_dsat_annotation.json").write_text(json.dumps(rows))
    (record,) = collected(WildFeedback(path=str(tmp_path))).records
    assert (record.label, record.reply, record.feedback, record.revised) == ("dsat", "a", "No, wrong.", "b")
    assert [message["content"] for message in record.prompt] == ["Be nice.", "q?"]


def test_wildfeedback_pairs(tmp_path):
    history = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}, {"from": "human", "value": "A joke"}]
    good, bad = {"from": "gpt", "value": "good"}, {"from": "gpt", "value": "bad"}
    rows = [
        {"conversations": history, "chosen": good, "rejected": bad},
        {"conversations": history, "chosen": good, "rejected": good},
        {"conversations": history[:2], "chosen": good, "rejected": bad},
        {"conversations": history, "chosen": None, "rejected": bad},
    ]
    (tmp_path / "wildfeedback.json").write_text(json.dumps(rows))
    found = collected(source(WildFeedbackPairs, tmp_path))
    assert [(r.label, r.reply, r.revised) for r in found.records] == [("dsat", "bad", "good"), ("sat", "good", None)]
    assert [(row["row"], row["field"]) for row in found.set_aside] == [(2, "rejected"), (3, "conversations"), (4, "chosen")]


def completion(text, *ratings, score=5.0, critique="So so."):
    names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    annotations = {name: {"Rating": str(rating), "Rationale": "..."} for name, rating in zip(names, ratings, strict=True)}
    return {"model": "m", "response": text, "annotations": annotations, "critique": critique, "overall_score": score}


def test_ultrafeedback_goes_by_the_ratings_and_not_by_the_score_that_is_known_to_be_wrong(tmp_path):
    good, middle = completion("good", 5, 5, 4, 5), completion("middle", 3, 3, "N/A", 4)
    wrong = completion("bad", 1, 1, 1, 1, score=10.0, critique="It misses the point.")
    row = {"source": "flan", "instruction": "Do it", "completions": [middle, wrong, good]}
    path = lines(
        tmp_path / "flan.jsonl", row, row | {"completions": [good, good]}, row | {"completions": []}, row | {"instruction": 3}
    )
    found = collected(UltraFeedback(path=path))
    dsat, sat = found.records
    assert (dsat.reply, dsat.feedback, dsat.revised) == ("bad", "It misses the point.", "good")
    assert (sat.label, sat.reply) == ("sat", "good") and "reconstructed" in dsat.provenance["source"]
    assert [row["field"] for row in found.set_aside] == ["completions", "completions", "instruction"]


@pytest.mark.parametrize("rating", ["10", "0", "²", "①", "9" * 5000, "4.5", "-1"])
def test_ultrafeedback_takes_ratings_from_1_to_5(rating, tmp_path):
    row = {
        "source": "flan",
        "instruction": "Do it",
        "completions": [completion("good", 5, 5, 5, 5), completion("bad", *[rating] * 4)],
    }
    (aside,) = collected(UltraFeedback(path=lines(tmp_path / "flan.jsonl", row))).set_aside
    assert aside["field"] == "completions[1].annotations" and "from 1 to 5" in aside["expected"]


def test_a_score_too_large_for_a_number_sets_its_row_aside(tmp_path):
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": score, "score_rejected": 1} for score in (10**400, 2)]
    found = collected(source(Preference, lines(tmp_path / "pairs.jsonl", *rows)))
    assert [(row["row"], row["field"]) for row in found.set_aside] == [(1, "score_chosen")] and len(found.records) == 2


def test_preference_pairs_in_all_three_forms(tmp_path):
    user, good, bad = (
        {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Hello"), ("assistant", "No"))
    )
    path = lines(
        tmp_path / "train_prefs.jsonl",
        {"prompt": [user], "chosen": [good], "rejected": [bad]},
        {"prompt": "Hi", "chosen": [user, good], "rejected": [user, bad], "score_chosen": 8.0, "score_rejected": 6.5},
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
        {"prompt": "Hi", "chosen": [user, good], "rejected": [user, bad], "score_chosen": 6.5, "score_rejected": 6.5},
        {"chosen": [user, good], "rejected": [user | {"content": "Ho"}, bad]},
        {"chosen": [user], "rejected": [user, bad]},
    )
    found = collected(source(Preference, path))
    assert [(r.label, r.reply) for r in found.records] == [("dsat", "No"), ("sat", "Hello")] * 3 or len(found.records) == 2
    reasons = [(row["row"], row["field"], row["reason"]) for row in found.set_aside]
    assert {(4, "score_chosen", "malformed row"), (5, "rejected", "malformed row"), (6, "chosen", "malformed row")} <= set(reasons)
    with pytest.raises(UserError, match="no file named"):
        source(Preference, tmp_path, split="test_prefs").check()


def test_wildchat_reads_parquet_and_heeds_its_flags(tmp_path):
    import pyarrow
    import pyarrow.parquet

    def row(name, *turns, toxic=False):
        roles = ("user", "assistant")
        said = [
            {
                "role": roles[i % 2],
                "content": text,
                "toxic": toxic and i == 1,
                "redacted": False,
                "language": "English",
                "turn_identifier": i,
            }
            for i, text in enumerate(turns)
        ]
        return {"conversation_hash": name, "model": "gpt-4", "conversation": said, "turn": 1, "language": "English", "toxic": False,
                "redacted": False}  # fmt: skip

    rows = [
        row("a", "Two words on tea", "Tea is a drink made of leaves.", "That is too long."),
        row("b", "Hi", "...", "thanks!", toxic=True),
        row("c", "Hi", "", "thanks!"),
        row("d", "Hi", "Hello", "thanks!"),
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train-00000.parquet")
    found = collected(source(WildChat, tmp_path))
    assert [(r.conversation, r.label, r.provenance["category"]) for r in found.records] == [
        ("a", "dsat", "style"),
        ("d", "sat", None),
    ]
    assert [(row["row"], row["reason"]) for row in found.set_aside] == [(2, "toxic"), (3, "malformed row")]


def test_messages_with_thumbs_comments_parts_and_without(tmp_path):
    user, reply = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    parts = {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "this?"}]}
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
    path = lines(
        tmp_path / "log.jsonl",
        {"id": "down", "messages": [user, reply | {"feedback": "down", "comment": "Rude."}]},
        {
            "id": "up",
            "messages": [{"role": "system", "content": "Be kind."}, user, reply | {"thumbs": True}, user, reply | {"rating": -1}],
        },
        {"id": "mined", "messages": [parts, reply, {"role": "user", "content": "thanks"}]},
        {"id": "picture", "messages": [picture, reply]},
        {"id": "odd", "messages": [user, reply | {"rating": "meh"}]},
        {"id": "wrong side", "messages": [user | {"feedback": "up"}, reply]},
        "\n{broken",  # an empty line counts: the number is the one that an editor shows
    )
    found = collected(source(Messages, path))
    assert [(r.conversation, r.label, r.provenance["detector"]) for r in found.records] == [
        ("down", "dsat", "source"), ("up", "sat", "source"), ("up", "dsat", "source"), ("mined", "sat", "rules"),
    ]  # fmt: skip
    assert found.records[0].feedback == "Rude." and found.records[3].prompt[0]["content"] == "What is\nthis?"
    assert [row["field"] for row in found.set_aside] == [
        "messages[0].content", "messages[1].rating", "messages[0].feedback", "(row)",
    ]  # fmt: skip
    assert all(row["expected"] and row["remedy"] and row["file"] == path for row in found.set_aside)
    assert [row["row"] for row in found.set_aside] == [4, 5, 6, 8]


def test_everything_in_a_mark_that_is_an_object_is_read_or_the_row_is_set_aside(tmp_path):
    """`details` was known by name and never read, and objects inside a mark were left out. Tags are topics; LibreChat's `tag` is
    what the user selected."""
    marks = [
        {"rating": "down", "details": "The year is 1848.", "text": "Wrong."}, {"rating": "down", "tags": ["geography"]},
        {"tags": ["wrong"], "details": "It is 5."}, {"value": {"rating": "down"}}, {"rating": "down", "comment": {"text": "No."}},
        {"rating": "down", "reason": [{"name": "wrong"}]}, {"rating": "up", "comment": {}}, {"tags": ["wrong"]},
        {"rating": "thumbsDown", "tag": {"key": "inaccurate", "label": "Inaccurate"}, "text": ""},
    ]  # fmt: skip
    replies = [{"role": "assistant", "content": f"a{i}", "feedback": mark} for i, mark in enumerate(marks)]
    rows = [{"id": str(i), "messages": [{"role": "user", "content": f"q{i}?"}, reply]} for i, reply in enumerate(replies)]
    found = collected(source(Messages, lines(tmp_path / "log.jsonl", *rows)))
    assert [(r.conversation, r.label, r.feedback) for r in found.records] == [
        ("0", "dsat", "Wrong.\nThe year is 1848."), ("1", "dsat", None), ("6", "sat", None), ("8", "dsat", None)
    ]  # fmt: skip
    inside = {4: "value", 5: "comment", 6: "reason"}
    where = {row["row"]: row["field"] for row in found.set_aside}
    aside = {number: f"messages[1].feedback.{name}" for number, name in inside.items()}
    assert where == {3: "messages", 8: "messages[1].feedback"} | aside


def test_open_webuis_finer_rating_repeats_the_thumb_and_is_no_thumb(tmp_path):
    """`annotation` as the product writes it; without a thumb the row is set aside."""
    marks = [
        {"rating": -1, "reason": "not_factually_correct", "comment": "It is Bern.", "tags": ["x"], "details": {"rating": 2}},
        {"rating": 1, "reason": None, "comment": "", "tags": [], "details": {"rating": 9}},
        {"rating": None, "details": {"rating": 9}}, {"rating": 1, "details": {"said": "wrong"}},
    ]  # fmt: skip
    replies = [{"role": "assistant", "content": f"a{i}", "annotation": mark} for i, mark in enumerate(marks)]
    rows = [{"id": str(i), "messages": [{"role": "user", "content": f"q{i}?"}, reply]} for i, reply in enumerate(replies)]
    found = collected(source(Messages, lines(tmp_path / "log.jsonl", *rows)))
    assert [(r.conversation, r.label, r.feedback) for r in found.records] == [("0", "dsat", "It is Bern."), ("1", "sat", None)]
    assert [(row["row"], row["field"]) for row in found.set_aside] == [(n, "messages[1].annotation.details") for n in (3, 4)]


def test_fields_are_ignored_wherever_the_refusal_names_them(tmp_path):
    """In messages that are JSON text, and in sides and comments that are objects."""
    reply = {"role": "assistant", "content": "a", "feedback": "down", "score": 3}
    text = lines(tmp_path / "text.jsonl", {"id": "a", "messages": json.dumps([{"role": "user", "content": "q?"}, reply])})
    side = {"from": "gpt", "value": "a", "score": 4}
    pair = {"conversations": [{"from": "human", "value": "q"}], "chosen": side, "rejected": side | {"value": "b", "score": 2}}
    pairs = lines(tmp_path / "pairs.jsonl", pair)
    told = {"prompt": [{"role": "user", "content": "q"}], "rejected": {"role": "assistant", "content": "b"}}
    jsonl = lines(tmp_path / "drift.jsonl", told | {"user_preference": {"content": "no", "score": "up"}})
    for kind, path, where in (
        (Messages, text, r"messages\[1\].score"), (WildFeedbackPairs, pairs, "chosen.score"),
        (Jsonl, jsonl, "user_preference.score"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"{where} looks like .*data.ignore_fields=\[score\]"):
            collected(source(kind, path))
        assert collected(source(kind, path, ignore_fields=["score"])).records


def test_sharegpt_sets_aside_parts_that_begin_with_a_reply(tmp_path):
    """The packaged file holds conversations in parts and system turns that name a web page; another file does not."""

    def row(name, *turns):
        return {"id": name, "conversations": [{"from": who, "value": text} for who, text in turns]}

    rows = [
        row("a_0", ("system", "x"), ("human", "Hi"), ("gpt", "Yes"), ("human", "that is wrong")),
        row("a_17", ("gpt", "Yes"), ("human", "thanks")),
        row("b_0", ("human", "Hi"), ("gpt", "\u200b"), ("human", "thanks")),
    ]
    for name, expected in (("ShareGPT_V3_unfiltered_cleaned_split.json", ("a_0:1", "a", 1)), ("chats.json", ("a_0:2", "a_0", 2))):
        (tmp_path / name).write_text(json.dumps(rows))
        found = collected(source(ShareGpt, tmp_path / name))
        assert [(r.id, r.conversation, len(r.prompt)) for r in found.records] == [expected]
        aside = [(row["row"], row["field"]) for row in found.set_aside]
        assert aside == [(2, "conversations[0].from"), (3, "conversations[1].value")]


def test_records_come_back_as_they_were_written(tmp_path):
    (tmp_path / "chats.json").write_text(json.dumps([VALID[ShareGpt]]))
    records = collected(source(ShareGpt, tmp_path / "chats.json")).records
    write_jsonl(tmp_path / "records.jsonl", records)
    with open(tmp_path / "records.jsonl", "a") as file:
        file.write(json.dumps({"id": "x"}) + "\n")
    found = collected(Records(path=str(tmp_path / "records.jsonl")))
    assert found.records == records and [row["row"] for row in found.set_aside] == [2]


def test_records_of_two_logs_with_one_name_keep_ids_of_their_own_and_none_is_there_twice(tmp_path):
    """Filters and reports find a record by its id; 1/log.jsonl and 2/log.jsonl, mined one by one, give the same ids."""
    (tmp_path / "chats.json").write_text(json.dumps([VALID[ShareGpt]]))
    (record,) = collected(source(ShareGpt, tmp_path / "chats.json")).records
    (tmp_path / "mined").mkdir()
    write_jsonl(tmp_path / "mined/a.jsonl", [record])
    write_jsonl(tmp_path / "mined/b.jsonl", [dataclasses.replace(record, reply="Another one."), record])
    found = collected(Records(path=str(tmp_path / "mined")))
    assert [(r.id, r.reply) for r in found.records] == [(record.id, "Yes"), (f"{record.id} (2)", "Another one.")]
    assert [(row["reason"], row["found"]) for row in found.set_aside] == [("duplicate", f"equal to {record.id}")]
    assert found.facts["records with the id of an earlier one"] == 1


VALID = {
    Jsonl: {"prompt": [{"role": "user", "content": "Hi"}], "rejected": [{"content": "bad"}], "user_preference": {"content": "No."}},
    Preference: {"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "a"}],
                 "rejected": [{"role": "assistant", "content": "b"}]},
    Messages: {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "b", "feedback": "down"}]},
    ShareGpt: {"id": "a_0", "conversations": [{"from": who, "value": text} for who, text in
               (("human", "Hi"), ("gpt", "Yes"), ("human", "that is wrong"))]},
    WildFeedbackPairs: {"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"value": "a"}, "rejected": {"value": "b"}},
    UltraFeedback: {"instruction": "x", "completions": [completion("a", 1, 1, 1, 1), completion("b", 5, 5, 5, 5)]},
}  # fmt: skip
JUNK = [
    None,
    0,
    -1.5,
    True,
    "",
    " ",
    "text",
    "\u200b",
    [],
    {},
    [None],
    [{}],
    {"role": "user"},
    [[]],
    float("inf"),
    "\ud83d",
    10**30,
]


def spoil(value, rng):
    """The value with one part somewhere replaced, removed or doubled."""
    if rng.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return rng.choice(JUNK)
    if isinstance(value, dict):
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: spoil(value[key], rng)}
    i = rng.randrange(len(value))
    if rng.random() < 0.2:
        return value[:i] + value[i + 1 :] if rng.random() < 0.5 else value[: i + 1] + value[i:]
    return [*value[:i], spoil(value[i], rng), *value[i + 1 :]]


@pytest.mark.parametrize("kind", VALID, ids=lambda kind: kind.__name__)
def test_every_row_is_yielded_whatever_it_contains(kind, tmp_path):
    """2,000 random rows a source, most of them spoilt: each is a conversation or set aside with a reason, and nothing is raised."""
    rng = random.Random(0)
    texts = []
    for _ in range(2000):
        row = VALID[kind]
        for _ in range(rng.randrange(4)):
            row = spoil(row, rng)
        text = json.dumps(row)
        texts.append(text[: rng.randrange(len(text) + 1)].replace("\n", "") or "x" if rng.random() < 0.1 else text)
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join(texts).encode("utf-8", "surrogatepass") + b"\n\xff\xfe broken\n")
    log = source(kind, path, **({"displeased_up_to": -1, "pleased_from": 1} if kind is Messages else {}))
    found = items(log)
    assert len(found) == sum(bool(text.strip()) for text in texts) + 1
    assert {type(item) for item in found} == {Conversation, Aside}
    whole = collected(log)
    kept = {record.provenance["row"] for record in whole.records}
    named = {row["row"] for row in whole.set_aside}
    silent = [
        item.row for item in found if isinstance(item, Conversation) and item.row not in kept | named and item.opinions is not None
    ]
    assert [row for row in silent if any(v.label != "none" for i in found if i.row == row for v in i.opinions.values())] == []


@pytest.mark.slow
def test_arrays_lines_and_gzip_give_the_same_rows_and_report_truncation(tmp_path):
    rows = [{"n": i, "text": "é" * (i % 7) * 100_000} for i in range(40)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a.json", "b.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    for name in ("a.json", "b.jsonl", "a.json.gz", "b.jsonl.gz"):
        assert list(read_rows(tmp_path / name)) == list(enumerate(rows, 1)), name
    whole = (tmp_path / "a.json").read_text()
    for text, complete, words in (
        (whole[: len(whole) // 2], 20, "ends inside this row"),
        (whole[:-1], 40, "ends here"),
        ("[1, 2, 33", 2, "ends inside this row"),
        ('[{"a": 1}, {"a" 2}, {"a": 3}]', 1, "the rest is not read"),
        ("hello", 0, "'hello'"),
        ("[]", 0, "none"),
    ):
        (tmp_path / "c.json").write_text(text)
        found = [row for _, row in read_rows(tmp_path / "c.json")]
        assert words in found[-1].found and abs(len(found) - 1 - complete) <= 1, (text[:30], found[-1:])


def test_bytes_that_are_not_utf8_are_set_aside_in_arrays_and_lines(tmp_path):
    good, bad = b'{"a": "caf\xc3\xa9"}', b'{"a": "caf\xe9"}'
    (tmp_path / "a.json").write_bytes(b"[" + b",".join([good, bad, good]) + b"]")
    (tmp_path / "b.jsonl").write_bytes(b"\n".join([good, bad, good]))
    for name in ("a.json", "b.jsonl"):
        rows = [row for _, row in read_rows(tmp_path / name)]
        assert rows[0] == rows[2] == {"a": "café"} and "UTF-8" in rows[1].expected, name


def test_the_number_of_bytes_read_is_known(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"n": "x" * 1000}] * 5000))
    assert bytes_read(path) == 0
    rows = read_rows(path)
    next(rows)
    assert 0 < bytes_read(path) < path.stat().st_size
    assert len(list(rows)) == 4999 and bytes_read(path) == 0
