"""Who is who in a log: conversations told apart, records that are there twice, users who disagree, prompts that are asked again."""

import json

import pytest
from conftest import collected, defaults, made

from drift.errors import UserError
from drift.intake.collected import no_records_message
from drift.intake.leakage import remove_leaked
from drift.records import Record

DOWN, UP = {"feedback": "down"}, {"feedback": "up"}


def said(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def talk(asked, replied, mark=DOWN, system=None, **more):
    messages = said(asked, replied)
    first = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*first, messages[0], messages[1] | mark], **more}


def shared(number, **more):
    turns = [("human", f"Where is town {number}?"), ("gpt", f"On river {number}."), ("human", "No, that's wrong.")]
    return {"conversations": [{"from": who, "value": text} for who, text in turns], **more}


def test_rows_without_an_id_with_prefixed_ids_or_with_one_id_are_conversations_of_their_own(tmp_path):
    logs = {
        "no id": ("sharegpt", [shared(i) for i in range(9)]),
        "null": ("sharegpt", [shared(i, id=None) for i in range(9)]),
        "prefixed": ("sharegpt", [shared(i, id=f"identity_{i}") for i in range(9)]),
        "a tenant's": ("sharegpt", [shared(i, id="tenant-7") for i in range(9)]),
        "a number": ("sharegpt", [shared(i, id=7) for i in range(9)]),
        "messages": ("messages", [talk(f"Where is town {i}?", f"On river {i}.", id="tenant-7") for i in range(9)]),
        "hashes": ("wildchat", [{"conversation": said(f"Where is town {i}?", "Here.", "No, that's wrong.")} for i in range(9)]),
    }
    for name, (source, rows) in logs.items():
        records = collected(tmp_path / "log.jsonl", rows, source=source).records
        assert len({record.conversation for record in records}) == len({record.id for record in records}) == 9, name
    found = collected(tmp_path / "log.jsonl", logs["messages"][1])
    assert found.facts["conversations with the id of an earlier one"] == 8
    assert [record.id for record in found.records[:2]] == ["tenant-7:1", "tenant-7 (log.jsonl:2):1"]


def test_copies_of_a_growing_conversation_stay_one_and_keep_records_of_their_own(tmp_path):
    turns = said("Where is Bonn?", "On the Rhine.", "And Trier?", "On the Mosel.")
    rows = [{"id": "a", "messages": [turns[0], turns[1] | DOWN]}, {"id": "a", "messages": [*turns[:3], turns[3] | DOWN]}]
    records = collected(tmp_path / "log.jsonl", rows).records
    assert [(record.conversation, record.reply) for record in records] == [("a", "On the Rhine."), ("a", "On the Mosel.")]
    assert len({record.id for record in records}) == 2


def test_a_complaint_in_copies_of_a_growing_conversation_counts_once_with_the_second_try_that_satisfied(tmp_path):
    """A row for each request: before and after the user was satisfied. A complaint that nobody answered stays as it is."""
    turns = said(
        "Name a river.", "Tea.", "That's wrong, I asked for a river.", "The Rhine.", "Thanks, that is right!", "You're welcome."
    )
    other = said("Name a town.", "Fish.", "That's wrong, I asked for a town.", "Bonn.")
    rows = [{"id": "a", "messages": turns[:end]} for end in (2, 4, 6)] + [{"id": "b", "messages": other}]
    found = collected(tmp_path / "log.jsonl", rows)
    disliked = [record for record in found.records if record.label == "dsat"]
    assert [(record.conversation, record.revised, record.satisfied) for record in disliked] == [
        ("a", "The Rhine.", True),
        ("b", "Bonn.", False),
    ]
    (copy,) = [row for row in found.set_aside if "another copy" in row["found"]]
    assert (copy["row"], copy["reason"]) == (2, "duplicate")


def test_of_the_copies_of_a_growing_conversation_the_one_that_tells_most_is_used_and_votes_once(tmp_path):
    """Each request is a row: the complaint comes first without its second try. A later click has no words, the row after it has.
    Somebody else likes a reply that the growing conversation dislikes three times: one vote against one is a tie."""
    turns = said("Name a river.", "Tea.", "That's too long.", "The Rhine.", "How long is it?", "1,233 km.")
    rows = [{"id": "a", "messages": turns[:end]} for end in (2, 3, 5, 6)]
    (record,) = [one for one in collected(tmp_path / "a.jsonl", rows).records if one.label == "dsat"]
    assert (record.feedback, record.revised, record.satisfied) == ("That's too long.", "The Rhine.", False)
    clicked = [turns[0], turns[1] | DOWN]
    rows = [{"id": "b", "messages": clicked}, {"id": "b", "messages": [*clicked, *turns[2:4]]}]
    (record,) = [one for one in collected(tmp_path / "b.jsonl", rows).records if one.label == "dsat"]
    assert (record.feedback, record.revised) == ("That's too long.", "The Rhine.")
    grown = [{"id": "c", "messages": [*clicked, *turns[2:end]]} for end in (2, 3, 4)]
    liked = {"id": "d", "messages": [turns[0], turns[1] | {"feedback": "up"}]}
    found = collected(tmp_path / "c.jsonl", [*grown, liked])
    assert found.records == [] and found.facts["replies with contradictory votes"] == 1


def test_one_record_of_a_conversation_is_one_however_often_it_was_logged(tmp_path):
    turns = said("Name a river.", "Tea.", "Name a town.", "Fish.", "Name a lake.", "Salt.")
    for at in (1, 3, 5):
        turns[at] |= DOWN
    rows = [{"id": "a", "messages": turns[:end]} for end in (2, 4, 6)]
    assert len(collected(tmp_path / "log.jsonl", rows, intake={"records_per_conversation": "one"}).records) == 1
    assert len(collected(tmp_path / "log.jsonl", rows).records) == 3


def test_a_conversations_id_says_more_than_a_rows(tmp_path):
    """Rows of a table often have both; records of one conversation must not be split between training and evaluation."""
    turns = said("Where is Bonn?", "On the Rhine.", "And Trier?", "On the Mosel.")
    talks = ([turns[0], turns[1] | DOWN], [*turns[:3], turns[3] | DOWN])
    rows = [{"id": f"row {i}", "conversation_id": "a", "messages": messages} for i, messages in enumerate(talks)]
    records = collected(tmp_path / "log.jsonl", rows).records
    assert [record.conversation for record in records] == ["a", "a"] and len({record.id for record in records}) == 2


def test_files_of_one_name_in_two_folders_are_two_files(tmp_path):
    for month in (1, 2):
        rows = [talk(f"What is sold in month {month}, stall {i}?", f"Fish {month}{i}.") for i in range(6)]
        collected(tmp_path / f"logs/month=0{month}/log.jsonl", rows)
    records = collected(tmp_path / "logs").records
    assert len(records) == len({record.id for record in records}) == len({record.conversation for record in records}) == 12
    assert {record.provenance["file"] for record in records} == {"month=01/log.jsonl", "month=02/log.jsonl"}
    assert records[6].id == "month=02/log.jsonl:1:1" and records[6].provenance["row"] == 1


def test_every_conversation_is_used_set_aside_or_counted(tmp_path):
    rows = [
        talk("Where is Bonn?", "On the Rhine."), talk("Where is Kiel?", "Where?", {"comment": "ticket 5"}), {"messages": "x"},
        talk("Where is Ulm?", "No idea.", {}), {"messages": said("Hi", "Hello", "And?")}, talk("Where is Bonn?", "On the Rhine."),
    ]  # fmt: skip
    found = collected(tmp_path / "log.jsonl", rows)
    assert len(found.records) == 1 and found.facts["conversations read"] == 6
    assert found.facts["conversations without feedback"] == 2
    assert sorted(row["reason"] for row in found.set_aside) == ["duplicate", "malformed row", "unclear comment"]


def test_a_log_without_a_record_is_refused_with_what_was_found_in_it(tmp_path):
    found = collected(tmp_path / "log.jsonl", [talk("Where is Ulm?", "No idea.", {}), {"messages": "x"}])
    said_aside, said_none = no_records_message(found.facts, found.set_aside), no_records_message(found.facts, [])
    assert (
        f"all 1 rows were set aside (1 malformed row). The first is {tmp_path}/log.jsonl, row 2, messages: expected" in said_aside
    )
    assert "no user said whether a reply was good" in said_none and "conversations without feedback: 1" in said_none


LONG = " ".join(f"Rule {i}: when asked about item {i} name source {7 * i} and never guess." for i in range(90))


def test_a_system_prompt_or_a_document_that_rows_share_makes_no_duplicates(tmp_path):
    towns = ["Lyon", "Porto", "Graz", "Turku", "Bergen", "Gdansk"]
    chats = [talk(f"What should a visitor of {town} see?", f"Begin at the market of {town}.", system=LONG) for town in towns]
    assert len(collected(tmp_path / "log.jsonl", chats).records) == 6
    pairs = [{"prompt": f"{LONG} Question: what should a visitor of {town} see?", "chosen": f"The market of {town}.",
              "rejected": "I do not know."} for town in towns]  # fmt: skip
    assert len(collected(tmp_path / "log.jsonl", pairs, source="preference").records) == 12
    first = [talk(f"What should a visitor of {town} see? Use this: {LONG}", "I do not know.") for town in towns]
    last = [talk(f"{LONG} What should a visitor of {town} see?", "I do not know.") for town in towns]
    before = [{"messages": [*said(LONG, "Noted.", f"What should a visitor of {town} see?"), said("", "No idea.")[1] | DOWN]}
              for town in towns]  # fmt: skip
    frame = "Sum up what stands here in at most a hundred words and no more: {} Again: a hundred words at most, and please no list."
    middle = [talk(frame.format(LONG[i * 900 : i * 900 + 900]), "No idea.") for i in range(6)]
    for rows in (first, last, before, middle):
        assert len(collected(tmp_path / "log.jsonl", rows).records) == 6, "the same reply to other questions about one document"


def test_records_are_duplicates_if_training_would_use_the_same(tmp_path):
    ranking = [{"prompt": "Where is Bonn?", "chosen": chosen, "rejected": "No."} for chosen in ("On the Rhine.", "West.", "Here.")]
    found = collected(tmp_path / "log.jsonl", ranking, source="preference")
    pairs = [(record.reply, record.revised) for record in found.records if record.label == "dsat"]
    assert pairs == [("No.", "On the Rhine."), ("No.", "West."), ("No.", "Here.")] and not found.set_aside
    words = " ".join(f"word{i}" for i in range(600))
    prompt, reply = said(words), [{"role": "assistant", "content": f"A reply of fifteen words {words[:60]}"}]
    other = [{"role": "assistant", "content": "Quite another reply."}]
    rows = [{"prompt": prompt, "rejected": reply}, {"prompt": prompt, "chosen": other}]
    assert [r.label for r in collected(tmp_path / "log.jsonl", rows, source="jsonl").records] == ["dsat", "sat"]
    rows = [talk(words, f"{words} a"), talk(words, f"{words} b"), talk(words, f"{words} a", id="again")]
    found = collected(tmp_path / "log.jsonl", rows)
    assert [row["found"] for row in found.set_aside] == ["nearly equal to log.jsonl:1:1", "equal to log.jsonl:1:1"]
    assert len(collected(tmp_path / "log.jsonl", intake={"near_duplicates": None}).records) == 2
    assert "near_duplicates" in found.set_aside[0]["remedy"] and "near_duplicates" not in found.set_aside[1]["remedy"]


@pytest.mark.parametrize(("up", "down", "kept"), [(1, 9, ["dsat"]), (9, 1, ["sat"]), (2, 2, []), (0, 3, ["dsat"])])
def test_users_who_disagree_about_a_reply_are_counted_and_most_votes_decide(up, down, kept, tmp_path):
    rows = [talk("What is your refund policy?", "Refunds take ten days.", mark, id=f"v{i}")
            for i, mark in enumerate([UP] * up + [DOWN] * down)]  # fmt: skip
    for order in (rows, rows[::-1]):
        found = collected(tmp_path / "log.jsonl", order)
        assert [record.label for record in found.records] == kept
        against = [row["found"] for row in found.set_aside if row["reason"] == "contradictory votes"]
        assert against == [f"{down} DSAT, {up} SAT"] * ((up > 0) + (down > 0) - len(kept))
        assert found.facts.get("replies with contradictory votes", 0) == (1 if up and down else 0)


def test_the_middle_of_a_ranking_is_no_contradiction(tmp_path):
    rows = [{"prompt": "Where is Bonn?", "chosen": better, "rejected": worse} for better, worse in (("a", "b"), ("b", "c"))]
    found = collected(tmp_path / "log.jsonl", rows, source="preference")
    assert len(found.records) == 4 and not found.set_aside and "replies with contradictory votes" not in found.facts


def record(name, *texts, system=None):
    first = [] if system is None else [{"role": "system", "content": system}]
    return Record(
        id=name, conversation=name, prompt=[*first, *said(*texts)], reply="x", label="dsat", ended=True, feedback=None,
        revised=None, satisfied=False, truth=None, provenance=None,
    )  # fmt: skip


def test_a_short_last_message_leaks_only_after_the_same_conversation(tmp_path):
    def talks(kind, count):
        return [record(f"{kind}{i}", f"Write about {kind} number {i}.", f"{kind} {i} is nice.", "Continue.") for i in range(count)]

    asked, others = talks("fish", 10), talks("tea", 50)
    kept, aside = remove_leaked([*others, asked[3]], [r.prompt for r in asked], "remove")
    assert kept == others and [(row["record"], row["found"]) for row in aside] == [("fish3", "equal")]


@pytest.mark.parametrize("speaker", ["user", "assistant"])
def test_the_same_long_conversation_leaks_under_another_last_message(speaker):
    long = " ".join(f"word{i}" for i in range(400))
    texts = (long, "Well.") if speaker == "user" else ("Write.", long)
    others = [record(f"o{i}", f"Where is town {i}?") for i in range(9)]
    kept, aside = remove_leaked(
        [record("same", *texts, "Shorter please"), *others], [record("a", *texts, "Make it shorter.").prompt], "remove"
    )
    assert kept == others and aside[0]["found"] == ("13 words in a row" if speaker == "user" else "nearly equal")


@pytest.mark.parametrize(("words", "found"), [(12, ["nearly equal"]), (11, [])])
def test_conversations_leak_from_four_fifths_of_common_five_word_sequences_on(words, found):
    text = [f"word{i}" for i in range(words)]  # 12 words that differ in the last: 7 of 8 sequences, and the first turn: 8 of 10
    mine, theirs = record("m", "Write", " ".join(text)), record("t", "Write", " ".join([*text[:-1], "other"]))
    others = [record(f"o{i}", f"Where is town {i}?") for i in range(9)]
    assert [row["found"] for row in remove_leaked([mine, *others], [theirs.prompt], "remove")[1]] == found


def test_text_that_most_prompts_share_is_not_leakage():
    def ask(name, town):
        return record(name, f"{LONG} Question: what should a visitor of {town} see?", system=LONG)

    asked = [ask(f"a{i}", f"Town{i}") for i in range(5)]
    train = [ask(f"t{i}", f"Village{i}") for i in range(19)]
    same = ask("same", "Town3")
    kept, aside = remove_leaked([*train, same], [r.prompt for r in asked], "remove")
    assert kept == train and [(row["record"], row["found"]) for row in aside] == [("same", "equal")]
    with pytest.raises(UserError, match="leakage=keep"):
        remove_leaked([same], [r.prompt for r in asked], "remove")


def test_one_of_several_templates_is_not_leakage_and_a_text_of_two_conversations_is(capsys):
    """Four templates, each in a quarter of the prompts. Each prompt has a fact of its own; a long one that is asked again leaks."""
    templates = [" ".join(f"{word}{i}" for i in range(25)) for word in ("please", "kindly", "now", "here")]
    rows = [record(f"r{i}", f"{templates[i % 4]} What is fact number {i}?", "It is this.", "Why?") for i in range(60)]
    mine, theirs = (" ".join(f"story{i}" for i in range(20)) + end for end in (" Shorten it.", " Make it longer, please."))
    kept, aside = remove_leaked(
        [*rows[12:], record("leak", mine)], [*(r.prompt for r in rows[:12]), record("x", theirs).prompt], "remove"
    )
    assert kept == rows[12:] and [(row["record"], row["found"]) for row in aside] == [("leak", "13 words in a row")]
    assert "1 of 49 training records have a prompt of the evaluation and are left out (leakage.jsonl).\n" in capsys.readouterr().out
    remove_leaked([record("x", mine), *rows[12:14]], [record("y", theirs).prompt], "remove")
    assert (
        "1 of 3 training records have a prompt of the evaluation and are left out (leakage.jsonl). If they"
        in capsys.readouterr().out
    )


def test_templates_that_take_turns_are_found_in_a_long_log():
    """More prompts than are examined, a template in every fourth: every second row has two of the four."""
    templates = [" ".join(f"{word}{i}" for i in range(25)) for word in ("please", "kindly", "now", "here")]
    rows = [record(f"r{i}", f"{templates[i % 4]} What is fact number {i}?") for i in range(300)]
    kept, aside = remove_leaked(rows[60:], [row.prompt for row in rows[:60]], "remove")
    assert kept == rows[60:] and aside == []


def test_the_settings_of_a_source_are_part_of_its_key(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps(talk("Hi", "Ho")) + "\n")
    from drift.mine.rules import Rules

    intake = made(defaults("config.yaml")["intake"])

    def key(**settings):
        return intake.key(made(defaults("data/messages.yaml")["data"], path=str(tmp_path / "log.jsonl"), **settings), Rules())

    settings = {"ignore_fields": ["x"], "displeased_up_to": 2, "pleased_from": 4}
    keys = [key(), *(key(**{name: value}) for name, value in settings.items())]
    assert all(one != other for i, one in enumerate(keys) for other in keys[i + 1 :]) and key() == key()
