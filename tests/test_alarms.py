"""Alarms: each is raised by what it is for and by nothing else; stop ends a run that can be resumed."""

import json
import re
import sys
from dataclasses import replace

import pytest
from conftest import ROOT, SMALL, command, compose
from hydra.utils import instantiate
from test_methods import pair, record

from drift.alarms import REMEDIES
from drift.errors import UserError
from drift.journal import Journal
from drift.logger.csv import Csv

STUDY = ROOT / "experiments/embedded-ranking"
OFF = dict.fromkeys(
    [
        "chosen_shift",
        "entropy_share",
        "copied_share",
        "cut_share",
        "cut_excess",
        "chosen_length_ratio",
        "length_ratio",
        "distinct2_share",
        "missing_ends",
        "perplexity_ratio",
    ]
)


def alarms(**settings):
    return replace(instantiate(compose().alarms), **OFF | settings)


def steps(shift, entropy):
    return [{"chosen_shift": s, "entropy": e} for s, e in zip(shift, entropy, strict=True)]


def test_training_alarms_use_the_last_steps():
    calm, falling = [0.0] * 8, [0.0] * 4 + [-0.3, -0.9, -1.5, -2.0]
    assert alarms(chosen_shift=-1.0).in_training(steps(calm, [2.0] * 8)) == {}
    found = alarms(chosen_shift=-1.0).in_training(steps(falling, [2.0] * 8))
    assert found == {
        "chosen_shift": "chosen_shift is -1.18, below the limit -1: the mean log-probability of a token of the chosen replies "
        "relative to the reference, in nats"
    }
    assert alarms(chosen_shift=-1.0).in_training(steps(falling[:7], [2.0] * 7)) == {}
    assert list(alarms(entropy_share=0.5).in_training(steps(calm, [2.0] * 4 + [0.9] * 4))) == ["entropy_share"]
    assert alarms().in_training(steps(falling, [2.0] * 4 + [0.1] * 4)) == {}
    assert alarms(chosen_shift=-0.1).in_training(steps(falling[-3:], [2.0] * 3)) == {}  # too few steps to say


def test_sampling_alarms_count_copies_of_all_kinds_and_cut_replies():
    counts = {"seen": 20, "used": 12, "identical": 1, "copied": 3, "echo": 0, "kept_echo": 3, "kept_truncated": 9}
    assert alarms(copied_share=0.35, cut_share=0.75).in_sampling(counts) == {}
    assert "7 of 20" in alarms(copied_share=0.34).in_sampling(counts)["copied_share"]
    assert "in 9 of 12 examples, a chosen reply was cut off" in alarms(cut_share=0.74).in_sampling(counts)["cut_share"]


def test_the_sides_of_several_replies_are_compared_by_their_shares():
    """Three fresh replies beside each of ten disliked ones, of both kinds three tenths cut off: no side more often than the other,
    though nine and three are more than .2 of ten examples apart."""
    watching, log = alarms(cut_excess=0.2), [record(0, "dsat", reply="w " * 11)]
    three = [one.replies[0] for one in pairs_of([11] * 3)]
    examples = []
    for i in range(10):
        chosen = [replace(reply, ended=i == 9 or k > 0) for k, reply in enumerate(three)]
        rejected = pairs_of([11], cut_rejected=i < 3)[0].replies[1]
        examples.append(replace(pairs_of([11])[0], replies=(*chosen, rejected)))
    assert watching.in_examples(examples, log) == {}


def pairs_of(lengths, cut=0, cut_rejected=0):
    """Pairs whose chosen replies have so many words; the first ones cut off."""
    return [
        pair(chosen="w " * words, rejected="no", chosen_ended=i >= cut, rejected_ended=i >= cut_rejected)
        for i, words in enumerate(lengths)
    ]


def test_chosen_replies_cut_off_more_often_than_rejected_ones_raise_an_alarm_by_default():
    """25 of 76 chosen replies of a log whose replies all end; as many on both sides, as of a model's own log, are no news."""
    watching, log = instantiate(compose().alarms), [record(0, "dsat", reply="w " * 11)]
    found = watching.in_examples(pairs_of([11] * 76, cut=25), log)
    assert list(found) == ["cut_excess"] and "25 of 76 chosen replies were cut off" in found["cut_excess"]
    assert "and 0 of 76 rejected ones" in found["cut_excess"]
    assert watching.in_examples(pairs_of([11] * 76, cut=25, cut_rejected=20), log) == {}
    assert (
        watching.in_examples(pairs_of([11] * 76, cut=15), log) == {}
        and alarms().in_examples(pairs_of([11] * 76, cut=76), log) == {}
    )


def test_chosen_replies_much_longer_than_the_logs_raise_an_alarm_by_default():
    """A median of 38.5 words (38 and 39 in the middle) against 11."""
    watching, log = instantiate(compose().alarms), [record(i, "dsat", reply="w " * words) for i, words in enumerate((5, 11, 90))]
    found = watching.in_examples(pairs_of([10, 38, 39, 60]), log)
    assert list(found) == ["chosen_length_ratio"]
    assert "a median of 38.5 words, the log's replies 11:" in found["chosen_length_ratio"]
    assert watching.in_examples(pairs_of([10, 22, 22, 60]), log) == {}


@pytest.mark.parametrize(
    ("settings", "metric", "fine", "bad"),
    [
        ({"length_ratio": 2.0}, "words", 11.0, 9.0),
        ({"length_ratio": 2.0}, "words", 39.0, 41.0),
        ({"distinct2_share": 0.8}, "distinct-2", 17.0, 15.0),
        ({"missing_ends": 0.3}, "missing ends", 20.2, 20.4),
        ({"perplexity_ratio": 2.0}, "perplexity under start", 39.0, 41.0),
    ],
)
def test_evaluation_alarms_compare_with_the_start_model(settings, metric, fine, bad):
    watching, start = alarms(**settings), {metric: 20.0}
    assert watching.in_evaluation({metric: fine}, start) == {}
    assert list(watching.in_evaluation({metric: bad}, start)) == list(settings)
    assert watching.in_evaluation({metric: None}, start) == {} == watching.in_evaluation({}, {})


def test_steps_found_in_the_store_raise_the_alarms_of_steps_that_come_one_by_one(tmp_path):
    """A thousand steps: the log-probability falls from the 500th on, entropy is halved from the 700th on."""
    rows = steps([0.0] * 500 + [-0.5] * 500, [2.0] * 700 + [0.5] * 300)
    rows = [{"step": i + 1} | row for i, row in enumerate(rows)]
    store = instantiate(compose(f"store.dir={tmp_path}/store").store)
    found = {}
    for way, seen in (("at once", [1000]), ("one by one", range(1, 1001))):
        (tmp_path / way).mkdir()
        watching = alarms(chosen_shift=-0.25, entropy_share=0.5)
        journal = Journal(tmp_path / way, {"method": "one"}, {}, store, Csv(), watching)
        for done in seen:
            journal.log_steps(1, rows[:done])
        found[way] = [(alarm.name, alarm.during) for alarm in journal.state.alarms]
        assert (tmp_path / way / "steps.csv").read_text().count("\n") == 1001
    assert found["at once"] == [("chosen_shift", "training, step 503"), ("entropy_share", "training, step 703")]
    assert found["one by one"] == found["at once"]


def test_nan_metrics_raise_the_alarm():
    broken = steps([float("nan")] * 8, [2.0] * 4 + [float("nan")] * 4)
    assert set(alarms(chosen_shift=-0.25, entropy_share=0.5).in_training(broken)) == {"chosen_shift", "entropy_share"}


def test_steps_without_a_metric_are_left_out_of_its_mean():
    """Of the last four steps two measured the shift: -1.5 on average. None measured it: no alarm, and no error."""
    rows = steps([0.0] * 8, [2.0] * 8)
    for row, shift in zip(rows[4:], (-1.0, None, -2.0, None), strict=True):
        row |= {"chosen_shift": shift}
    some = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert "chosen_shift is -1.50" in alarms(chosen_shift=-1.0).in_training(some)["chosen_shift"]
    assert alarms(chosen_shift=-1.0, entropy_share=0.5).in_training([{"step": 1.0}] * 8) == {}


def test_every_alarm_has_settings_to_try():
    assert REMEDIES.keys() == OFF.keys()


def test_a_threshold_that_no_policy_can_meet_is_refused():
    with pytest.raises(UserError, match="alarms.length_ratio=0.5: expected above 1"):
        alarms(length_ratio=0.5).check()


def replayed():
    """The runs of experiments/embedded-ranking/alarms.jsonl: five iterations that collapse (two seeds on which thresholds were set
    and three that were not), the quickstart (eight seeds as it was, eight as it is, collecting the log again)."""
    sys.path.insert(0, str(STUDY))
    try:
        import replay
    finally:
        sys.path.remove(str(STUDY))
    composed = instantiate(compose().alarms)
    return {run["run"]: replay.replay(composed, run) for run in replay.read(STUDY / "alarms.jsonl")}


def test_an_alarm_is_raised_before_a_collapse_reaches_utility_and_none_in_the_quickstart():
    runs = replayed()
    calm = {name: rows for name, rows in runs.items() if "quickstart" in name}
    assert len(calm) == 8 + 8 and {row["alarms"] for rows in calm.values() for row in rows} == {""}
    collapsing = [rows for name, rows in runs.items() if name.startswith("five iterations")]
    for rows in collapsing:
        assert [bool(row["alarms"]) for row in rows] == [False, False, False, True, True, True]
        first = rows[3]["alarms"]
        assert first.startswith("chosen_shift (step"), "in training: the policy before is still a good one"
    below = [row for rows in collapsing for row in rows if float(row["utility"]) < float(rows[0]["utility"])]
    assert len(below) == 3 and all(row["alarms"].startswith("chosen_shift (step") for row in below)


def test_every_collapse_of_an_unseen_seed_raises_an_alarm_and_the_slow_one_late():
    """Seeds that no threshold was set on. The last drifts to longer replies: utility falls an iteration before anything sounds."""
    runs = {name[-3:]: rows for name, rows in replayed().items() if name.startswith("unseen")}
    first = {
        seed: next((i, row["alarms"].split(",")[0]) for i, row in enumerate(rows) if row["alarms"]) for seed, rows in runs.items()
    }
    assert first == {"200": (3, "chosen_shift (step 8)"), "201": (4, "chosen_shift (step 5)"), "202": (3, "cut_share (sampling)")}
    start, before = (float(runs["202"][i]["utility"]) for i in (0, 2))
    assert before < start


@pytest.mark.slow
def test_stop_ends_the_run_and_the_same_command_without_it_resumes(cache, tmp_path):
    common = [
        *SMALL, f"model.cache_dir={cache}", "iterations=1", "alarms.entropy_share=2", f"store.dir={tmp_path}/store",
        "train.examples_per_step=1", "alarms.cut_share=null",
    ]  # fmt: skip
    stopped = command(*common, "alarms.action=stop", f"hydra.run.dir={tmp_path}/stopped")
    assert stopped.returncode == 1 and "The alarm entropy_share stopped the run in iteration 1, training" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    with open(tmp_path / "stopped/steps.csv") as file:
        assert len(file.readlines()) >= 1 + 4  # what led there is kept
    warned = command(*common, f"hydra.run.dir={tmp_path}/warned")
    assert warned.returncode == 0 and warned.stdout.count("ALARM (entropy_share)") == 1, warned.stderr
    for name, status in (("stopped", "failed"), ("warned", "finished")):
        state = json.loads((tmp_path / name / "run.json").read_text())
        assert state["status"] == status and [alarm["name"] for alarm in state["alarms"]] == ["entropy_share"]
        assert "<td>entropy_share</td>" in (tmp_path / name / "report.html").read_text()
        assert re.fullmatch(r"training, step \d", state["alarms"][0]["during"])


@pytest.mark.slow
def test_pairs_that_are_copies_stop_a_run_before_it_trains(cache, tmp_path):
    done = command(
        *SMALL, f"model.cache_dir={cache}", "iterations=1", "alarms.copied_share=-1", "alarms.action=stop",
        f"store.dir={tmp_path}/store", f"hydra.run.dir={tmp_path}/run",
    )  # fmt: skip
    assert done.returncode == 1 and "The alarm copied_share stopped the run in iteration 1, sampling" in done.stderr
    stages = {stage["name"] for stage in json.loads((tmp_path / "run/run.json").read_text())["stages"]}
    assert "examples" in stages and not stages & {"reference", "train"}
