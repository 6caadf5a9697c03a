"""`drift agree`: numbers by hand, a judge of known accuracy and position bias, and what is refused."""

import json
import random
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from judge_server import Server
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from test_llm_judge import asking, llm, shown
from test_methods import record
from test_report import state

from drift.__main__ import dispatch
from drift.compose import compose
from drift.config import build_part
from drift.errors import UserError
from drift.judge.agreement import agreement_stages
from drift.judge.sides import pairs_of
from drift.judge.weighted import auc, correlation, kappa
from drift.records import write_jsonl
from drift.report import agreed
from drift.report.advice import how_far_to_trust
from drift.report.agreement import agree
from drift.report.foreign import Reader
from drift.report.state import Member
from drift.statistics import over_items, over_weights

GOOD = "a better reply"


def pair(i, **changes):
    return record(i, "dsat", **{"revised": f"{GOOD} {i}", "satisfied": True} | changes)


def measured(file):
    return {(row["measure"], row["of"]): row for row in json.loads(file.read_text())["measures"]}


def test_every_number_of_a_small_file_by_hand(tmp_path, capsys):
    """Eight pairs: four right in both orders, two that name the first one twice, one wrong, one unreadable. Of the verdicts of the
    seven, 5 + 2 * 2 of 14 name the first reply; the wrong one prefers the longer reply, as its user did not."""
    kinds = ["right"] * 4 + ["first"] * 2 + ["wrong", "?"]
    records = [pair(i, provenance={"category": "style" if i < 5 else "factual"}) for i in range(8)]
    records[6] = pair(6, reply="logged reply that is longer than the better one", provenance=records[7].provenance)
    records += [pair(8, satisfied=False), record(9, "sat"), record(10, "silent")]
    write_jsonl(tmp_path / "log.jsonl", records)

    def answers(body):
        kind = kinds[int(body["messages"][0]["content"].split("About tea ")[1].split(",")[0])]
        right = "AB"[shown(body)[1].startswith(GOOD)]
        return f"Verdict: {dict(right=right, wrong='BA'['AB'.index(right)], first='A').get(kind, kind)}"

    with Server(answers=answers) as server:
        settings = [f"endpoint.url=http://127.0.0.1:{server.server_port}/v1", "endpoint.model=m", "endpoint.key_variable=null"]
        settings += [f"endpoint.cache_dir={tmp_path}/cache", "structured=false"]
        for _ in range(2):
            dispatch(["agree", "users", "llm", str(tmp_path / "log.jsonl"), *(f"b.{item}" for item in settings)])
            assert server.served == 16, "the second time, nothing is asked"
    found = measured(tmp_path / "log.users-llm.json")
    judge = "llm (m, pairs in both orders)"
    expected = {
        ("agreement", ""): 5 / 7, ("agreement without ties", ""): 4 / 5, ("ties", judge): 2 / 7,
        ("changed by the order", judge): 2 / 7, ("first one preferred", judge): 9 / 14,
        ("agreement", "style"): 4.5 / 5, ("agreement", "factual"): 0.5 / 2,
        ("longer one preferred", judge): 1.0, ("longer one preferred", "users"): 7 / 8,
    }  # fmt: skip
    assert {name: found[name]["mean"] for name in expected} == pytest.approx(expected)
    printed = capsys.readouterr().out
    assert "8 pairs of a disliked reply and one that satisfied; 1 in which the second did not are left out." in printed
    assert f"{judge}: 1 of 8 verdicts could not be read" in printed


def test_kappa_auc_and_rank_correlation_by_hand_and_with_weights():
    """kappa: 3 of 4 are equal, and chance is 1/2 * 1/4 + 1/2 * 3/4. AUC: 3.5 of 4 pairs. A weight of 2 is the item twice."""
    once = np.ones((1, 4))
    assert kappa([0, 0, 1, 1], [0, 1, 1, 1])(once) == pytest.approx([0.5])
    assert auc([3, 2, 2, 1], [True, True, False, False])(once) == pytest.approx([0.875])
    assert correlation([1, 2, 3, 4], [1, 4, 9, 16])(once) == pytest.approx([1]) == -correlation([1, 2, 3, 4], [4, 3, 2, 1])(once)
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 4, (3, 40))
    one, other, good = rng.integers(0, 3, 40), rng.integers(0, 3, 40), rng.random(40) < 0.4
    for row in weights:
        kept = np.repeat(np.arange(40), row)
        assert kappa(list(one), list(other))(row[None]) == pytest.approx([cohen_kappa_score(one[kept], other[kept])])
        assert auc(list(one), list(good))(row[None]) == pytest.approx([roc_auc_score(good[kept], one[kept])])
    assert np.isnan(kappa([0, 0], [0, 0])(once[:, :2])).all() and np.isnan(auc([1, 2], [True, True])(once[:, :2])).all()


def test_the_interval_of_a_weighted_mean_is_that_of_the_mean():
    rng = np.random.default_rng(1)
    values, conversations = rng.random(60), [str(i // 2) for i in range(60)]
    found = over_weights(lambda weights: weights @ values / weights.sum(1), conversations)
    expected = over_items(list(values), conversations)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high), abs=0.005)
    assert found.over == expected.over == "60 prompts of 30 conversations"
    assert over_weights(lambda weights: weights.sum(1), ["a"] * 9).low is None, "one conversation allows no conclusion"


@dataclass(frozen=True)
class Biased:
    """A judge of known faults: on a quarter of the pairs it names the first reply whatever it is; elsewhere 4 of 5 are right."""

    needs_truth = False
    compares = True
    label = "biased"

    def orders(self, pairs):
        rng, found = random.Random(5), []
        for _, first, _ in pairs:
            right = "A" if (first.startswith(GOOD)) == (rng.random() < 0.8) else "B"
            found.append(("A", "A") if rng.random() < 0.25 else (right, "BA"["AB".index(right)]))
        return found


def test_accuracy_and_position_bias_of_a_judge_are_found_within_their_intervals(tmp_path):
    """Agreement: 1/4 * 1/2 + 3/4 * 4/5 = 0.725. Verdicts for the first reply: 1/4 * 1 + 3/4 * 1/2 = 0.625. Users and judge name
    either place equally often, so kappa is (p - e) / (1 - e) with p = 0.6 exactly equal verdicts and e = 2 * 0.5 * 0.375."""
    records = [pair(i) for i in range(300)]
    log = SimpleNamespace(files=lambda: [None], conversations=lambda file: records)
    agree([("users", None), ("biased", Biased())], log, None, tmp_path / "out.json")
    found = measured(tmp_path / "out.json")
    judge = "biased (biased)"
    truth = {
        ("agreement", ""): 0.725, ("agreement without ties", ""): 0.8, ("kappa", ""): (0.6 - 0.375) / (1 - 0.375),
        ("changed by the order", judge): 0.25, ("ties", judge): 0.25, ("first one preferred", judge): 0.625,
    }  # fmt: skip
    outside = {name: found[name] for name, value in truth.items() if not found[name]["low"] <= value <= found[name]["high"]}
    assert outside == {}
    assert all(found[name]["high"] - found[name]["low"] < 0.15 for name in truth)


def test_the_better_reply_of_a_pair_stands_first_as_often_as_second():
    """Within three standard errors of a half, of 400; a pair of equal texts is none."""
    better = [one.better for one in pairs_of([pair(i) for i in range(400)])]
    assert abs(sum(better) / 400 - 0.5) < 3 * 0.5 / 20
    assert pairs_of([pair(0, revised=" logged  dsat 0 "), pair(1, revised=None), record(2, "sat")]) == []


@dataclass(frozen=True)
class Long:
    """Grades a reply by its length."""

    sign: int

    needs_truth = False
    label = "long"

    def open(self):
        from contextlib import nullcontext

        return nullcontext(lambda items: [[self.sign * len(reply.text) for reply in replies] for _, replies in items])


def test_grades_are_compared_with_thumbs_by_auc_and_with_each_other_by_rank(tmp_path):
    """Liked replies of 2, 3, 4 words' length against disliked ones of 1, 3, 5, 6: 2 > 1; 3 > 1 and = 3; 4 > 1, 3: 4.5 of 12."""
    texts = [(length, "sat") for length in (2, 3, 4)] + [(length, "dsat") for length in (1, 3, 5, 6)]
    records = [record(i, label, reply="x" * length) for i, (length, label) in enumerate(texts)]
    log = SimpleNamespace(files=lambda: [None], conversations=lambda file: records)
    agree([("long", Long(1)), ("users", None)], log, None, tmp_path / "a.json")
    found = measured(tmp_path / "a.json")
    assert found["AUC", ""]["mean"] == pytest.approx(4.5 / 12)
    assert found["rank correlation of score and length", "long (long)"]["mean"] == pytest.approx(1)
    agree([("long", Long(1)), ("short", Long(-1))], log, None, tmp_path / "b.json")
    assert measured(tmp_path / "b.json")["rank correlation", ""]["mean"] == pytest.approx(-1)
    agree([("long", Long(1)), ("users", None)], log, 4, tmp_path / "c.json")
    assert measured(tmp_path / "c.json")["AUC", ""]["number"] == 4


NAMED = ["users", "llm", "b.endpoint.url=http://127.0.0.1:1/v1", "b.endpoint.model=m", "b.endpoint.key_variable=null"]


@pytest.mark.parametrize(("words", "message"), [
    (["users", "users"], "at least one judge"), (["users", "llm"], r"^b\.endpoint\.(model|url) has no value yet"),
    (["users", "llm", "endpoint.model=m"], r"expected a setting of one of the two judges, a\.endpoint\.model=m or b\."),
    (["users", "llm", "a.endpoint.model=m"], r"a\.endpoint\.model=m: users have no settings"),
    (["users", "llm", "b.vote=3"], r"Unknown key b\.vote"), (["users", "oracle"], r"there is no conf/judge/oracle\.yaml.*llm"),
    ([*NAMED, "+b.endpoint.fields.stream=true"], r"b\.endpoint\.fields\.stream: this field is the program's"),
    (["users", "verifier"], "against a known truth, which these records don't have"),
    ([*NAMED, "--max-records", "-5"], r"--max-records -5: expected at least 1"),
])  # fmt: skip
def test_a_mistake_is_named_with_its_side(words, message, tmp_path):
    write_jsonl(tmp_path / "log.jsonl", [pair(i, truth=None) for i in range(3)])
    with pytest.raises(UserError, match=message):
        dispatch(["agree", *words[:2], str(tmp_path / "log.jsonl"), *words[2:]])


def test_rows_that_are_no_records_are_counted_and_never_left_out_in_silence(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    write_jsonl(log, [record(i, "sat" if i % 2 else "dsat") for i in range(6)])
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps(row | ({"note": ""} if i < 2 else {})) + "\n" for i, row in enumerate(rows)))
    config = compose(["data=records", f"data.path={log}"]).data
    agree([("long", Long(1)), ("users", None)], build_part(config, "data"), None, tmp_path / "a.json")
    assert "2 of 6 rows are set aside. The first is row 1 of" in capsys.readouterr().out
    assert measured(tmp_path / "a.json")["AUC", ""]["number"] == 4
    log.write_text("".join(json.dumps(row | {"note": ""}) + "\n" for row in rows))
    with pytest.raises(
        UserError, match=r"No usable record: all 6 rows were set aside. The first is row 1 of .*log\.jsonl, note: expected"
    ):
        agree([("long", Long(1)), ("users", None)], build_part(config, "data"), None, tmp_path / "b.json")


def test_the_report_of_a_run_with_a_judge_ends_with_the_command_for_its_own_log(tmp_path):
    ran = state("iterdpo", 0, 0.0)
    ran.title |= {"judge": "llm", "method.judge.endpoint.model": "m", "method.judge.template": "my file.txt"}
    ran.title["method.judge.endpoint.fields.max_completion_tokens"] = "4000"
    members = {"iterdpo": [Member(folder=tmp_path, state=ran)]}
    assert how_far_to_trust(members) == [], "there are no records"
    (tmp_path / "records.jsonl").touch()
    command = f"drift agree users llm {tmp_path}/records.jsonl b.endpoint.model=m 'b.template=my file.txt'"
    command += " ++b.endpoint.fields.max_completion_tokens=4000"
    assert how_far_to_trust(members) == [f"How far the judge agrees with the users of this log: {command}"]
    assert how_far_to_trust({"drift": [Member(folder=tmp_path, state=state("drift", 0, 0.0))]}) == []
    filtered = state("drift", 0, 0.0)
    filtered.title |= {"judge@filters.judge": "llm", "filters.judge.endpoint.model": "m"}
    (line,) = how_far_to_trust({"drift": [Member(folder=tmp_path, state=filtered)]})
    assert line.endswith(f"drift agree users llm {tmp_path}/records.jsonl b.endpoint.model=m")
    (tmp_path / "records.users-llm.json").touch()
    assert how_far_to_trust(members) == [], "the command has been run"


def test_a_run_asks_a_judge_that_costs_nothing_about_a_bounded_number_of_labelled_replies(tmp_path, capsys):
    """Of 40 replies, half of them liked and longer by a letter than the others: an AUC of 1 for a judge of length, in 10 groups of
    the judge's; the second run asks nothing. A judge that costs money is never asked, and of complaints alone nothing is known."""
    records = [record(i, "sat" if i % 2 else "dsat", reply="x" * (5 + i % 2)) for i in range(40)]
    judges = {"method.judge": Grouped(1), "filters.judge": Grouped(-1)}
    for asked in ([("filters.judge", False), ("method.judge", False)], [("filters.judge", True), ("method.judge", True)]):
        found = dict(agreement_stages(asking(tmp_path), judges, records, 20))
        assert [(place, stage.hit) for place, stage in found.items()] == asked
    assert "  method.judge and users: AUC 1.000" in capsys.readouterr().out
    for place, value in (("method.judge", 1.0), ("filters.judge", 0.0)):
        row = measured(found[place].path / "agreement.json")["AUC", ""]
        assert (row["mean"], row["number"]) == (value, 20)
    assert len(list((tmp_path / "judge").iterdir())) == 2 * 20 // 4, "groups of four"
    kinds = [replace(one, provenance={"category": f"kind {i // 2 % 2}"}) for i, one in enumerate(records)]
    (stage, _) = (stage for _, stage in agreement_stages(asking(tmp_path), judges, kinds, 20))
    assert not stage.hit and ("AUC", "kind 1") in measured(stage.path / "agreement.json"), "AUC also by the kind of complaint"
    same = {"method.judge": Grouped(1), "filters.judge": Grouped(1)}
    assert [place for place, _ in agreement_stages(asking(tmp_path), same, records, 20)] == ["method.judge"]
    with Server(refuse=True) as server:
        nothing = {"method.judge": llm(server, tmp_path / "cache"), "filters.judge": None}
        assert list(agreement_stages(asking(tmp_path), nothing, records, 20)) == []
    assert (
        list(agreement_stages(asking(tmp_path), judges, records[::2], 20))
        == list(agreement_stages(asking(tmp_path), judges, records, 0))
        == []
    )


@dataclass(frozen=True)
class Grouped(Long):
    """Grades by length, four items at once."""

    group_size = 4


def test_the_report_shows_what_runs_measured_of_judges_and_what_the_command_wrote(tmp_path):
    """Two seeds with logs of their own, AUC .5 and .7: mean .6, t interval of one degree of freedom. A third shares a log."""
    members = []
    for i, value in enumerate((0.5, 0.7, 0.7)):
        folder = tmp_path / str(i)
        (folder / "method.judge").mkdir(parents=True)
        row = {"measure": "AUC", "of": "", "number": 40 + i, "mean": value, "low": None, "high": None, "over": "40 prompts"}
        content = {"a": "users", "b": "judge (long)", "measures": [row], "meanings": {"AUC": "how often", "kappa": "unused"}}
        if i < 2:
            (folder / "method.judge/agreement.json").write_text(json.dumps(content))
        members.append(Member(folder=folder, state=state("iterdpo", i, 0.0)))
    groups, reader = {"iterdpo": members}, Reader()
    about = {"run": "iterdpo", "judge": "method.judge (long)", "measure": "AUC", "of": ""}
    low, high = 0.6 - 12.7062 * 0.1, 0.6 + 12.7062 * 0.1
    assert agreed.rows(groups, reader) == [
        about | {"value": f"0.600 [{low:.3f}, {high:.3f}]", "items": "40 / 41", "over": "2 seeds"}
    ]
    assert agreed.meanings(groups, reader) == {"AUC": "how often"}
    (tmp_path / "2/records.users-llm.json").write_text(json.dumps(content | {"b": "llm (m)"}))
    (tmp_path / "2/records.llm-users.json").write_text(json.dumps(content | {"a": "llm (m)", "b": "users"}))  # asked twice
    (tmp_path / "2/records.reward_model-llm.json").write_text(json.dumps(content | {"a": "other"}))  # not about the users
    (tmp_path / "0/filters.judge").mkdir()
    (tmp_path / "0/filters.judge/agreement.json").write_text(json.dumps(content))
    expected = {"method.judge (long)": "2 seeds", "filters.judge (long)": "40 prompts", "llm (m)": "40 prompts"}
    assert {row["judge"]: row["over"] for row in agreed.rows(groups, reader)} == expected
    (tmp_path / "0/filters.judge/agreement.json").unlink()
    (tmp_path / "2/records.llm-users.json").unlink()
    (tmp_path / "2/records.users-llm.json").write_text("{}")
    assert len(agreed.rows(groups, reader)) == 1 and "lacks a, b, meanings, measures" in str(reader.problems)
