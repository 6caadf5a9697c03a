"""What `describe` proposes for a run, and the languages that it tells."""

import dataclasses
import json
import shlex

import pytest

from drift.compose import compose
from drift.config import build
from drift.intake.language import detect_language
from drift.overrides import override
from drift.records import Record
from drift.report.describe import NOT_TOLD, languages, sentences, unread
from drift.report.proposals import held_out_share, propose, reply_room


def record(number, label="dsat", revised=None, asked="Tell me about tea."):
    return Record(
        id=f"r{number}", conversation=f"c{number}", prompt=[{"role": "user", "content": asked}], reply=f"Reply {number}.",
        label=label, ended=True, feedback=None, revised=revised, satisfied=False, truth=None, provenance=None,
    )  # fmt: skip


@pytest.mark.parametrize(("liked", "disliked", "max_tokens", "expected"), [
    (range(1, 21), [500], 2048, 32),  # 19 of the 20 have at most 19 tokens, 20 with the end token
    (range(1, 20), [], 2048, 32),  # too few liked ones, so all: 19 of 19 have at most 19
    ([10], [30] * 30, 2048, 32),  # all: 31 with the end token
    ([10], [31] * 30, 2048, 32), ([10], [32] * 30, 2048, 48),
    ([18] * 43 + [47, 50, 50], [], 512, 48),  # 44 of 46 are enough, and have at most 47
    ([400] * 20, [], 512, 256),  # no more than half of train.max_tokens
])  # fmt: skip
def test_fresh_replies_may_be_as_long_as_95_of_100_liked_ones(liked, disliked, max_tokens, expected):
    records = [record(i, "sat") for i in range(len(liked))] + [record(i) for i in range(len(disliked))]
    assert reply_room(records, [*liked, *disliked], max_tokens)[0] == expected


def test_the_share_held_out_has_49_pairs_or_is_half_of_the_log():
    """49 pairs show that 70% move the same way (p < .05, 80% power): 49 / 200 = .245, 49 / 100 = .49."""
    assert [held_out_share(pairs, 5000) for pairs in (1, 60, 98, 100, 200, 490, 5000)] == [0.5, 0.5, 0.5, 0.5, 0.25, 0.1, 0.1]
    assert held_out_share(0, 200) == 0.25  # no pairs: records stand in


def test_the_command_has_what_is_proposed_keeps_what_the_user_said_and_can_be_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "März (1).jsonl"
    records = [record(i, revised="Better." if i < 98 else None) for i in range(300)]
    file.write_text("".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in records))
    run = build(compose(["data=records", override("data.path", str(file)), "model=tiny"]))
    found = propose(records, {"reply": [20] * 300}, run, ["model=tiny"])
    half = dataclasses.replace(run.evaluation["heldout"], share=0.5)
    held = [r for r in records if r.conversation in {h.conversation for h in half.separate(records)[1]}]
    assert found.settings == {
        "sampler.max_new_tokens": "32", "evaluation.heldout.share": "0.5", "evaluation.heldout.max_records": str(len(held)),
        "method": "drift",
    } and found.max_new_tokens == 32  # fmt: skip
    program, command, *rest = shlex.split(found.command(file, ["model=tiny"]))
    again = build(compose(rest))
    assert (program, command, again.data.path, again.sampler.max_new_tokens) == ("drift", "run", str(file), 32)
    assert (again.evaluation["heldout"].share, again.evaluation["heldout"].max_records) == (0.5, len(held))
    liked = [dataclasses.replace(r, label="sat") for r in records]
    assert "method=sft" in propose(liked, {"reply": [20] * 300}, run, []).command(file, []), (
        "DRIFT would have nothing to learn from"
    )
    said = ["method=spin", "sampler.max_new_tokens=99", "evaluation.heldout.share=0.3", "evaluation.heldout.max_records=10"]
    kept = propose(records, {"reply": [20] * 300}, build(compose(["data=records", override("data.path", str(file)), *said])), said)
    assert kept.settings == {} and kept.max_new_tokens == 99
    quiet = [record(i, label="dsat" if i < 100 else "silent") for i in range(1000)]
    asked = propose(quiet, {"reply": [20] * 1000}, run, ["model=tiny"])
    assert asked.settings["evaluation.heldout.share"] == "0.5", "49 of the 100 users who said something"


def test_a_log_without_thanks_has_no_ratio():
    for thanks, told in ((0, "6 DSAT and 0 SAT; "), (2, "6 DSAT and 2 SAT (3.0 : 1); ")):
        records = [record(i, label="dsat" if i < 6 else "sat") for i in range(6 + thanks)]
        assert told in sentences(records, [], records, [], {"max_tokens": 9, "max_new_tokens": 1})[0]


def test_the_page_names_languages_that_the_miner_cannot_read():
    english = ("How do I make pasta al dente?", "What should I know about roses?", "Translate 'Guten Morgen' to English")
    assert {detect_language(text) for text in english} <= {"en", None}
    assert detect_language("thanks") is None and detect_language("12 + 3 = ?") is None
    asked = (
        ["Was soll ich in Graz zuerst sehen?"] * 2
        + ["Que voir en premier à Lyon ?"]
        + ["ok"]
        + ["Please tell me more about tea."] * 3
    )
    spoken = languages([record(i, asked=text) for i, text in enumerate(asked)])
    assert spoken == {"de": 2, "fr": 1, NOT_TOLD: 1, "en": 3}
    (sentence,) = unread(spoken)
    assert sentence.startswith("3 records are not in English (de 2, fr 1). The miner reads only English")
    assert unread(languages([record(0, asked="Please tell me more about tea.")])) == []
