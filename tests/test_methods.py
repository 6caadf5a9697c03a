"""Methods make the right pairs, filters count what they drop, all with a scripted `ask` and nothing else."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import ROOT, compose, preference
from hydra.utils import instantiate

from drift.config import build
from drift.errors import UserError
from drift.examples.filters import Filters, need_enough
from drift.examples.guidance import Guidance
from drift.judge.verifier import Verifier
from drift.loop import Loop, one_pass
from drift.method.drift import Drift
from drift.method.iterdpo import IterDpo
from drift.method.random_logged import RandomLogged, matched
from drift.method.sdpo import Sdpo
from drift.method.sft import Sft
from drift.method.spin import Spin
from drift.method.unpaired import Unpaired
from drift.method.warmup import Warmup
from drift.model.chat import prompt_ids
from drift.model.policy import load_tokenizer, policy_at
from drift.records import Labelled, Record, Reply

UNGUIDED = Guidance(share=0.0, instruction="Do better.")
FILTERS = Filters(copied_words=3, truncated="drop", echo="drop", judge=None)


def record(i, label, **changes):
    fields = {
        "id": f"r{i}", "conversation": f"c{i}", "prompt": [{"role": "user", "content": f"About tea {i}, no commas."}],
        "reply": f"logged {label} {i}", "label": label, "ended": True, "feedback": "No commas please." if label == "dsat" else None,
        "revised": None, "satisfied": label == "sat", "truth": {"topic": "tea", "request": "a_long_word"}, "provenance": None,
    }  # fmt: skip
    return Record(**fields | changes)


LOG = [record(0, "dsat"), record(1, "sat"), record(2, "dsat"), record(3, "sat")]


def scripted(*texts, ended=True):
    """An `ask` that answers with the given texts in turn, and remembers the prompts that it was asked for."""
    script, asked = itertools.cycle(texts), []

    def draw(items, prompts_of, *, label, rounds=1):
        for k, item in itertools.product(range(rounds), items):
            prompts = prompts_of(item)
            asked.extend((item.id, k * len(prompts) + j, prompt) for j, prompt in enumerate(prompts))
            yield item, [Reply(text=next(script), num_tokens=3, ended=ended) for _ in prompts]

    def judge(judge, drawn, *, label):
        with judge.open() as score:
            for record, replies in drawn:
                yield record, replies, score([(record, replies)])[0]

    return SimpleNamespace(draw=draw, judge=judge, asked=asked)


def pair(**changes):
    fields = {
        "prompt": [{"role": "user", "content": "x"}], "chosen": "one two three four", "rejected": "five six seven",
        "chosen_ended": True, "rejected_ended": True, "fresh": ("chosen",),
        "feedback": "please write it with many fewer commas now", "record": "r",
    }  # fmt: skip
    return preference(**fields | changes)


def sides(example):
    """(record, chosen, rejected, which of them are fresh) of a pair."""
    chosen, rejected = example.replies
    assert chosen.good and not rejected.good
    fresh = tuple(name for name, reply in (("chosen", chosen), ("rejected", rejected)) if reply.fresh)
    return example.record, chosen.text, rejected.text, fresh


def test_drift_rejects_the_logged_dsat_reply_and_chooses_a_fresh_one():
    pairs = list(Drift(num_samples=1, guidance=UNGUIDED, rounds=1).make_examples(LOG, scripted("fresh")))
    assert [*map(sides, pairs)] == [
        ("r0", "fresh", "logged dsat 0", ("chosen",)),
        ("r2", "fresh", "logged dsat 2", ("chosen",)),
    ]


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "conf/method").glob("*.yaml")))
def test_without_a_number_of_examples_every_record_is_used_once(name, tiny, tmp_path):
    """Three of each label, a store of its own: as many candidates as the method has records, though it may go round more often."""
    settings = ("model=tiny", f"method={name}", "examples_per_iteration=null", "sampler.max_new_tokens=4", f"store.dir={tmp_path}")
    run, log = build(compose(*settings)), [record(i, label) for i, label in enumerate(["dsat", "sat"] * 3)]
    assert run.method.rounds > 1
    start = policy_at(tiny)
    loop = Loop(run=run, journal=None, start=start, tokenizer=load_tokenizer(start))
    made = loop.examples_stage(1, run.method, None, start, log)
    assert made.facts["counts"]["seen"] == (6 if name in ("random_logged", "unpaired") else 3)


def test_the_papers_settings_make_one_pass_over_the_records():
    for size in ("0.5b", "7b", "14b"):
        config = compose(f"experiment=paper-{size}")
        assert config.examples_per_iteration is None and one_pass(instantiate(config.method)).rounds == 1


def test_several_samples_share_the_prompt_and_the_disliked_reply_as_one_example():
    ask = scripted("fresh a", "fresh b", "fresh c")
    examples = list(Drift(num_samples=3, guidance=UNGUIDED, rounds=2).make_examples(LOG, ask))
    assert [one.record for one in examples] == ["r0", "r2", "r0", "r2"]
    assert [reply.text for reply in examples[0].replies] == ["fresh a", "fresh b", "fresh c", "logged dsat 0"]
    assert [reply.good for reply in examples[0].replies] == [True, True, True, False]
    assert [sample for _, sample, _ in ask.asked] == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]


def test_guided_prompts_have_reply_and_feedback_but_the_pair_keeps_the_original_prompt():
    ask = scripted("fresh")
    (first, _) = Drift(num_samples=1, guidance=Guidance(share=1.0, instruction="Do better."), rounds=1).make_examples(LOG, ask)
    shown = ask.asked[0][2]
    assert [m["role"] for m in shown] == ["user", "assistant", "user"]
    assert shown[1]["content"] == "logged dsat 0" and shown[2]["content"] == "No commas please.\n\nDo better."
    assert first.prompt == LOG[0].prompt


def test_the_control_rejects_logged_replies_whatever_the_user_thought(capsys):
    method = RandomLogged(match="none", num_samples=1, guidance=UNGUIDED, rounds=1)
    pairs = list(method.make_examples(LOG, scripted("fresh")))
    assert [*map(sides, pairs)] == [(record.id, "fresh", record.reply, ("chosen",)) for record in LOG]
    assert capsys.readouterr().out == ""
    list(method.make_examples(LOG[:3], scripted("fresh")))
    assert "Note: 2 of the log's 3 replies were disliked, so this control is mostly DRIFT" in capsys.readouterr().out


def test_the_control_may_match_the_lengths_of_the_disliked_replies():
    """30 disliked replies of 20 to 49 words among 270 others of 1 to 90: as many drawn, nobody twice, each within four words
    or so of its model (eight nearest of ten a word length), and most of them liked or silent."""
    said = lambda i, label, length: record(i, label, reply=" ".join(["word"] * length), feedback=None)  # noqa: E731
    disliked = [said(i, "dsat", 20 + i) for i in range(30)]
    others = [said(100 + i, ("sat", "silent")[i % 2], 1 + i % 90) for i in range(270)]
    drawn = matched([*others, *disliked])
    assert len({one.id for one in drawn}) == len(drawn) == 30
    gaps = [len(one.reply.split()) - len(model.reply.split()) for one, model in zip(drawn, disliked, strict=True)]
    assert max(map(abs, gaps)) <= 4 and abs(sum(gaps)) <= 30
    assert sum(one.label != "dsat" for one in drawn) >= 15
    method = RandomLogged(match="length", num_samples=1, guidance=UNGUIDED, rounds=1)
    assert [one.record for one in method.make_examples([*others, *disliked], scripted("fresh"))] == [one.id for one in drawn]


def test_silent_users_are_nobodys_but_the_controls():
    log = [*LOG, record(4, "silent", feedback=None)]
    made = {
        "drift": Drift(num_samples=1, guidance=UNGUIDED, rounds=1), "spin": Spin(rounds=1), "sft": Sft(rounds=1),
        "unpaired": Unpaired(rounds=1), "random": RandomLogged(match="none", num_samples=1, guidance=UNGUIDED, rounds=1),
    }  # fmt: skip
    used = {name: {one.record for one in method.make_examples(log, scripted("fresh"))} for name, method in made.items()}
    assert used == {
        "drift": {"r0", "r2"}, "spin": {"r1", "r3"}, "sft": {"r1", "r3"}, "unpaired": {"r0", "r1", "r2", "r3"},
        "random": {"r0", "r1", "r2", "r3", "r4"},
    }  # fmt: skip


def test_spin_chooses_the_logged_sat_reply_and_draws_new_samples_in_every_round():
    ask = scripted("fresh a", "fresh b", "fresh c", "fresh d")
    pairs = list(Spin(rounds=2).make_examples(LOG, ask))
    rejected = ("rejected",)
    assert [*map(sides, pairs)] == [
        ("r1", "logged sat 1", "fresh a", rejected), ("r3", "logged sat 3", "fresh b", rejected),
        ("r1", "logged sat 1", "fresh c", rejected), ("r3", "logged sat 3", "fresh d", rejected),
    ]  # fmt: skip
    assert [sample for _, sample, _ in ask.asked] == [0, 0, 1, 1]


def test_iterdpo_ranks_its_samples_by_the_judge_and_reports_ties():
    judge = Verifier(noise=0.0, seed=0, group_size=2)
    method = IterDpo(num_samples=2, guidance=UNGUIDED, rounds=1, judge=judge)
    good, bad = "Tea is delicious and good.", "Tea is warm and good."
    (first, second) = method.make_examples(LOG, scripted(bad, good, good, good))
    assert sides(first)[1:] == (good, bad, ("chosen", "rejected"))
    assert second is None
    assert judge.label == "oracle, same function as the metric"


def test_iterdpo_can_guide_any_share_of_its_samples():
    ask = scripted("a", "b", "c", "d")
    judge = Verifier(noise=0.5, seed=0, group_size=2)
    list(IterDpo(num_samples=4, guidance=Guidance(share=0.5, instruction="."), rounds=1, judge=judge).make_examples(LOG, ask))
    lengths = [len(prompt) for name, _, prompt in ask.asked if name == "r0"]
    assert lengths == [3, 3, 1, 1]


def test_the_noisy_judge_is_repeatable_and_has_the_configured_noise():
    judge = Verifier(noise=0.5, seed=0, group_size=2)
    replies = [Reply(text=f"Tea is delicious and good {i}.", num_tokens=9, ended=True) for i in range(4000)]
    scores = [judge.score(LOG[0], reply) for reply in replies]
    assert scores == [judge.score(LOG[0], reply) for reply in replies]
    mean = sum(scores) / len(scores)
    assert mean == pytest.approx(1.0, abs=0.03)
    assert (sum((s - mean) ** 2 for s in scores) / len(scores)) ** 0.5 == pytest.approx(0.5, abs=0.03)


def test_sft_uses_the_liked_replies_and_draws_none():
    made = list(Sft(rounds=1).make_examples(LOG, None))
    assert [(one.record, one.replies) for one in made] == [
        (f"r{i}", (Labelled(text=f"logged sat {i}", ended=True, fresh=False, good=True),)) for i in (1, 3)
    ]
    assert len(list(Sft(rounds=3).make_examples(LOG, None))) == 6


def test_unpaired_labels_every_logged_reply_by_its_feedback():
    made = list(Unpaired(rounds=1).make_examples(LOG, None))
    assert [(one.record, one.replies[0].good) for one in made] == [("r0", False), ("r1", True), ("r2", False), ("r3", True)]
    assert {len(one.replies) for one in made} == {1}


def test_sdpo_shows_the_teacher_what_the_user_said_and_leaves_out_replies_without_words():
    log = [record(0, "dsat"), record(1, "sat", feedback="Thanks {really}!\n"), record(2, "sat")]
    first, second = Sdpo(rounds=1, context=" I said: {feedback} Again.").make_examples(log, None)
    assert [(one.record, one.replies[0].text, one.replies[0].good) for one in (first, second)] == [
        ("r0", "logged dsat 0", False),
        ("r1", "logged sat 1", True),
    ]
    assert first.prompt == log[0].prompt and len(first.replies) == len(second.replies) == 1
    assert first.hindsight == [{"role": "user", "content": "About tea 0, no commas. I said: No commas please. Again."}]
    assert second.hindsight == [{"role": "user", "content": "About tea 1, no commas. I said: Thanks {really}! Again."}]


def test_an_example_whose_feedback_leaves_no_room_for_the_reply_is_counted(tokenizer):
    """A token is a byte here: the reply and the end of its turn have 6, and one more than fits is too many."""
    (made,) = Sdpo(rounds=1, context=" {feedback}").make_examples([record(0, "dsat", reply="Hello")], None)
    room = len(prompt_ids(tokenizer, made.hindsight)) + 6
    for max_tokens, used in ((room, 1), (room - 1, 0)):
        examples, counts = FILTERS.take([made], None, tokenizer, max_tokens, ask=SimpleNamespace(), records=[])
        assert (len(examples), counts["too_long"]) == (used, 1 - used)


def test_warm_start_pairs_are_the_dsat_records_with_a_liked_second_reply():
    log = [*LOG, record(5, "dsat", revised="better", satisfied=True), record(6, "dsat", revised="no better", satisfied=False)]
    (only,) = Warmup().make_examples(log, None)
    assert sides(only)[1:] == ("better", "logged dsat 5", ())


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (None, "tie"),
        (pair(chosen="  "), "empty"),
        (pair(rejected=""), "empty"),
        (pair(chosen="five  six seven"), "identical"),
        (pair(chosen="five six seven eight"), "copied"),
        (pair(chosen="five six eight nine"), None),
        (pair(chosen="Sorry, here it is."), "echo"),
        (pair(chosen="You said: write it with many fewer commas now"), "echo"),
        (pair(chosen="Sorry, this was logged.", fresh=("rejected",)), None),
        (pair(chosen_ended=False), "truncated"),
        (pair(chosen_ended=False, fresh=("rejected",)), "truncated"),
        (pair(rejected_ended=False), None),
        (pair(), None),
    ],
)
def test_every_rule_for_unusable_pairs(candidate, reason):
    assert FILTERS.reasons(candidate) == ([] if reason is None else [reason])


def test_a_reply_that_apologises_and_is_cut_off_is_dropped_if_either_is_to_be(tokenizer):
    both = pair(chosen="Sorry, here it is and", chosen_ended=False)
    for settings, expected in (
        ({"truncated": "drop", "echo": "keep"}, ("truncated", [])),
        ({"truncated": "keep", "echo": "drop"}, ("echo", [])),
        ({"truncated": "keep", "echo": "keep"}, (None, ["kept_echo", "kept_truncated"])),
    ):
        assert replace(FILTERS, **settings)._rule(both, tokenizer, 500)[1:] == expected


def test_take_stops_at_the_wanted_number_and_counts_everything(tokenizer):
    candidates = iter([None, pair(chosen=""), pair(record="a"), pair(chosen="five six seven"), pair(record="b"), pair(record="c")])
    ask = SimpleNamespace()
    pairs, counts = FILTERS.take(candidates, 2, tokenizer, 512, ask=ask, records=[])
    assert ask.missing == 0
    assert [p.record for p in pairs] == ["a", "b"]
    assert {name: n for name, n in counts.items() if n} == {"seen": 5, "used": 2, "tie": 1, "empty": 1, "identical": 1}
    assert next(candidates).record == "c"  # nothing was drawn beyond what was needed


def test_kept_rules_are_counted_too(tokenizer):
    keep = Filters(copied_words=3, truncated="keep", echo="keep", judge=None)
    candidates = [pair(chosen_ended=False), pair(chosen="Sorry, here.")]
    pairs, counts = keep.take(candidates, None, tokenizer, 512, ask=SimpleNamespace(), records=[])
    assert len(pairs) == 2 and counts["kept_truncated"] == counts["kept_echo"] == 1


def test_examples_of_which_none_is_usable_are_refused_with_the_reasons():
    counts = {"seen": 3, "used": 0, "empty": 2, "tie": 1}
    with pytest.raises(UserError, match="no usable example from 2 records: of 3 candidates, 2 empty, 1 ties of the judge"):
        need_enough(counts, made=0, wanted=4, num_records=2, needs="DSAT")


@pytest.mark.parametrize(
    ("counts", "remedy"),
    [
        ({"seen": 0}, "none was dropped. Give it the feedback that it learns from: DSAT."),
        ({"seen": 9, "truncated": 9}, "9 cut off by .*Raise sampler.max_new_tokens, or set filters.truncated=keep.$"),
        ({"seen": 9, "tie": 2, "too_long": 7}, "Raise train.max_tokens.$"),
    ],
)
def test_the_commonest_reason_decides_what_is_advised(counts, remedy):
    with pytest.raises(UserError, match=remedy):
        need_enough(counts, made=0, wanted=4, num_records=2, needs="DSAT")
