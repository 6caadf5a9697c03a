"""Statistics against hand-made and library numbers; reports are built from what is on disk and escape what is in the data."""

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scipy import stats
from statsmodels.stats.multitest import multipletests

from drift.errors import UserError
from drift.report import closing, foreign, html, plots, samples, tables, verdict
from drift.report.compare import MOST_COMPARED, NOT_SEPARABLE, compare
from drift.report.members import gain, groups
from drift.report.settings import differing
from drift.report.statistics import holm, level, over_items, over_seeds, paired


def test_t_interval_over_seeds_is_scipys():
    found = over_seeds([0.1, 0.2, 0.4])
    low, high = stats.t.interval(0.95, 2, loc=np.mean([0.1, 0.2, 0.4]), scale=stats.sem([0.1, 0.2, 0.4]))
    assert (found.low, found.high) == pytest.approx((low, high)) and found.over == "3 seeds"


def test_bootstrap_interval_of_ninety_six_prompts_is_close_to_the_normal_one():
    values = np.random.default_rng(0).binomial(1, 0.3, 96)
    found, half = over_items(list(values)), 1.96 * values.std(ddof=1) / 96**0.5
    assert found.mean == values.mean()
    assert found.low == pytest.approx(values.mean() - half, abs=0.02) and found.high == pytest.approx(
        values.mean() + half, abs=0.02
    )


def test_the_bootstrap_is_corrected_for_bias_and_skew():
    """BCa by hand (Efron 1987) on a skewed sample, where the percentile interval lies elsewhere."""
    values = np.random.default_rng(3).exponential(1.0, 40) ** 2
    draws = np.random.default_rng(4).choice(values, (20000, len(values))).mean(axis=1)
    left_out = (values.sum() - values) / (len(values) - 1)
    bent = ((left_out.mean() - left_out) ** 3).sum() / (6 * ((left_out.mean() - left_out) ** 2).sum() ** 1.5)
    bias = stats.norm.ppf((draws < values.mean()).mean())
    shares = [stats.norm.cdf(bias + (bias + z) / (1 - bent * (bias + z))) for z in stats.norm.ppf([0.025, 0.975])]
    found, expected, plain = over_items(list(values)), np.quantile(draws, shares), np.quantile(draws, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.04 * np.ptp(expected))
    assert abs(found.high - plain[1]) > 0.1 * np.ptp(expected)


def test_differences_are_taken_prompt_by_prompt():
    """Each prompt gains exactly .1, so the paired interval has no width though the prompts differ widely."""
    before = {str(i): i / 10 for i in range(8)}
    after = {key: value + 0.5 for key, value in before.items()}
    found = paired([after], [before])
    assert found.mean == pytest.approx(0.5) and found.high - found.low < 1e-9 and found.separable


def test_nothing_is_called_separable_that_touches_zero():
    assert not paired([{"a": 1.0, "b": 0.0}], [{"a": 0.0, "b": 1.0}]).separable
    assert not level([{"a": 0.3}]).separable
    assert not over_seeds([0.2]).separable


def test_p_and_effect_are_those_of_the_textbook_and_corrected_as_statsmodels_does():
    gains = [0.1, 0.25, 0.2, 0.05]
    after, before = [{"x": 0.3 + gain} for gain in gains], [{"x": 0.3}] * 4
    found = paired(after, before)
    assert found.p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    assert found.effect == pytest.approx(np.mean(gains) / np.std(gains, ddof=1))
    one_seed = paired([{str(i): 1.0 for i in range(6)}], [{str(i): 0.0 for i in range(6)}])
    assert one_seed.p == pytest.approx(2 / 2**6)  # of all sign patterns, two are as far out
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 12):
        values = list(rng.uniform(0, 0.1, size))
        assert holm(values) == pytest.approx(list(multipletests(values, method="holm")[1]))


def test_interval_and_p_of_a_difference_are_of_one_test():
    """Of 1 to 6 the 63 subsets' means lie between 1 ({1}) and 6 ({6}): no more than 1 of 64 may lie outside on either side, so
    these are the interval; 2/64 of all sign patterns are as far out. Of five values nothing can be said."""
    found = paired([{str(i): float(i) for i in range(1, 7)}], [dict.fromkeys("123456", 0.0)])
    assert (found.mean, found.low, found.high, found.p) == (3.5, 1.0, 6.0, 2 / 64) and found.separable
    five = paired([{str(i): 1.0 for i in range(5)}], [dict.fromkeys("01234", 0.0)])
    assert (five.low, five.high, five.p) == (None, None, 2 / 32) and five.few and not five.separable
    rng = np.random.default_rng(7)
    for size, shift in itertools.product((8, 13, 14, 40), (0.2, 0.5, 0.7)):
        now = {str(i): value for i, value in enumerate(rng.normal(shift, 1, size))}
        found = paired([now], [dict.fromkeys(now, 0.0)])
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
        theirs = stats.permutation_test((list(now.values()),), np.mean, permutation_type="samples", rng=rng)
        assert found.p == pytest.approx(theirs.pvalue, abs=0.02)


def test_items_of_one_conversation_are_no_more_than_one():
    """Eight conversations, and the same with every item four times: the same intervals and p. Of five conversations, nothing."""
    once = {f"c{i}": value for i, value in enumerate((0.3, -0.1, 0.4, 0.2, 0.6, -0.2, 0.5, 0.1))}
    four = {f"{name}, {k}": value for name, value in once.items() for k in range(4)}
    conversation, zero = {item: item.split(",")[0] for item in four}, dict.fromkeys
    one, more, alone = (
        paired([once], [zero(once, 0.0)]),
        paired([four], [zero(four, 0.0)], conversation),
        paired([four], [zero(four, 0.0)]),
    )
    assert (more.low, more.high, more.p) == pytest.approx(
        (one.low, one.high, one.p)
    ) and more.over == "32 prompts of 8 conversations"
    assert alone.high - alone.low < 0.6 * (more.high - more.low)
    now, same = level([four], conversation), level([once])
    assert (now.low, now.high) == pytest.approx((same.low, same.high), abs=0.01) and now.high - now.low > 1.6 * np.ptp(
        (level([four]).low, level([four]).high)
    )
    few = {item: value for item, value in four.items() if item < "c5"}
    assert paired([few], [zero(few, 0.0)], conversation).few and level([few], conversation).low is None


@pytest.mark.parametrize("seeds", [1, 3, 8])
def test_intervals_hold_what_they_say(seeds):
    """96 prompts of which .3 succeed, under two equal policies: how often the interval of level and of difference has the truth."""
    rng, runs = np.random.default_rng(seeds), 400 if seeds == 1 else 3000
    hits = {"level": 0, "difference": 0}
    for _ in range(runs):
        one, other = (
            [{str(i): float(value) for i, value in enumerate(rng.binomial(1, 0.3, 96))} for _ in range(seeds)] for _ in range(2)
        )
        now, gap = level(one), paired(one, other)
        hits["level"] += now.low <= 0.3 <= now.high
        hits["difference"] += gap.low <= 0 <= gap.high
    margin = 0.03 if seeds > 1 else 0.04  # of 400 runs, 95 % is .95 +- .02
    assert {name: abs(count / runs - 0.95) <= margin for name, count in hits.items()} == {"level": True, "difference": True}, hits


def state(method, seed, gain, status="finished", error=None):
    def point(name, shift):
        items = {str(i): 0.2 + 0.05 * (i % 3) + shift for i in range(12)}
        metric = {"value": sum(items.values()) / 12, "per_item": items, "digits": 3}
        extra = {"value": 5.0, "per_item": None, "digits": 1}
        return {"iteration": 0, "name": name, "scores": {"headline": "utility", "metrics": {"utility": metric, "words": extra}}}

    counts = {"seen": 9, "used": 8, "tie": 1}
    trained = {"pairs": 8, "steps": 4, "distinct prompts": 6, "generated tokens": 99, "prompts too long": 0, "counts": counts}
    points = [point("start", 0.0), point("iteration 1", gain) | trained | {"first step": {"dpo": 0.6931472, "margin": 0.0}}]
    return {
        "title": {"method": method, "seed": str(seed)}, "notes": {"judge": "none"}, "status": status, "error": error,
        "data": {"DSAT": 5}, "points": points, "stages": [{"name": "train", "seconds": 2.0, "peak_gib": 0.5, "hit": False}],
    }  # fmt: skip


def compared(grouped):
    return tables.comparisons(compare(grouped))


def study(folder, states):
    for i, member in enumerate(states):
        (folder / str(i)).mkdir()
        (folder / str(i) / "run.json").write_text(json.dumps(member))
    return html.study_report(folder).read_text()


def test_a_study_says_who_is_ahead_or_that_they_are_not_separable(tmp_path):
    gains = {"one": (0.2, 0.21, 0.19), "two": (0.1, 0.1, 0.1), "three": (0.0, 0.4, 0.2)}
    states = [state(method, seed, gain) for method, row in gains.items() for seed, gain in enumerate(row)]
    found = {row["comparison"]: row["verdict"] for row in compared(groups(states))}
    assert found == {"one - two": "one is better", "one - three": "not separable", "two - three": "not separable"}
    text = study(tmp_path, states)
    assert "one is better" in text and "not separable" in text and "<svg" in text and "3 seeds" in text


def test_rows_list_what_each_method_cost(tmp_path):
    row = tables.rows("one", [state("one", 0, 0.1)])[1]
    assert [row[name] for name in ("distinct prompts", "pairs", "steps", "generated tokens")] == ["6", "8", "4", "99"]
    assert row["against start"].startswith("+0.100") and row["words"] == "5.0"


def test_failed_and_unfinished_members_are_in_the_report(tmp_path):
    begun = state("two", 0, 0.1, status="running")
    begun["points"] = begun["points"][:1]
    text = study(tmp_path, [state("one", 0, 0.1), begun, state("three", 0, 0.1, status="failed", error="UserError: <b>no</b>")])
    assert "two: no run has evaluated a trained policy so far" in text and "running, or killed: last written 20" in text
    assert "three, seed 0 failed: UserError: &lt;b&gt;no&lt;/b&gt;" in text


def test_a_run_killed_before_its_evaluation_hides_nothing_of_the_other_seeds(tmp_path):
    killed = state("one", 0, 0.1, status="running")
    killed["points"][1].pop("scores")
    states = [killed, *(state("one", seed, 0.1 + seed / 100) for seed in (1, 2, 3))]
    assert [row["policy"] for row in tables.rows("one", states)] == ["start", "iteration 1 (3 of 4 runs)"]
    assert "one: after iteration 1, utility is better" in study(tmp_path, states)


def test_of_two_seeds_of_which_one_was_killed_the_page_says_so(tmp_path):
    killed = state("one", 1, 0.1, status="running")
    killed["points"][1].pop("scores")
    assert "one: only 1 of 2 runs has evaluated a trained policy so far" in study(tmp_path, [state("one", 0, 0.1), killed])


def test_two_seeds_with_the_same_gain_and_one_of_many_lucky_groups_are_not_called_better(tmp_path):
    text = study(tmp_path, [state("one", seed, 0.1) for seed in (0, 1)])  # no spread, so the interval has no width
    assert "one: after iteration 1, utility is not separable from the start model&#39;s (+0.100" in text
    assert "+0.100 [+0.100, +0.100], p 0.500" in text  # the table says why: of two signs, one in two patterns is as far out
    gains = {"one": (0.1, 0.2, 0.16)} | {f"other{i}": (0.1, -0.1, 0.0) for i in range(9)}
    states = {label: [state(label, seed, gain) for seed, gain in enumerate(row)] for label, row in gains.items()}
    assert gain(states["one"], "iteration 1").separable  # alone it would be
    assert f"one: after iteration 1, utility is {NOT_SEPARABLE}" in verdict.against_start(states)[0]


def test_only_what_was_evaluated_alike_is_compared(tmp_path):
    """Another headline, other prompts; the report holds them all the same."""
    one, other, third = ([state(method, seed, 0.1 * seed) for seed in (0, 1)] for method in ("one", "other", "third"))
    for member in other:
        for point in member["points"]:
            scores = point["scores"]
            scores |= {"headline": "margin", "metrics": {"margin": scores["metrics"]["utility"]}}
    for point in (point for member in third for point in member["points"]):
        metric = point["scores"]["metrics"]["utility"]
        metric["per_item"] = {f"third {key}": value for key, value in metric["per_item"].items()}
    assert compared(groups([*one, *other, *third])) == []
    text = study(tmp_path, [*one, *other, *third])
    assert "other: after iteration 1, margin" in text and "Between them" not in text


def test_a_warm_start_alone_is_compared_with_iterations(tmp_path):
    warm = [state("warm", seed, 0.3 + seed / 100) for seed in (0, 1, 2)]
    for member in warm:
        member["points"][1]["name"] = "warm start"
    (row,) = compared({"warm": warm, "one": [state("one", seed, 0.1) for seed in (0, 1, 2)]})
    assert row["at"] == "warm start, iteration 1" and row["verdict"] == "warm is better"


def test_a_tiny_p_is_not_shown_as_zero():
    ahead = [state("one", seed, gain) for seed, gain in enumerate((0.3, 0.301, 0.299))]
    (row,) = compared({"one": ahead, "two": [state("two", seed, 0.1) for seed in (0, 1, 2)]})
    assert row["p (Holm)"] == "< 0.001" and row["verdict"] == "one is better"


def test_start_models_that_are_one_evaluation_are_not_several_seeds():
    """Three seeds over the same log and prompts: the interval of the start model is over prompts, and has a width."""
    rows = tables.rows("one", [state("one", seed, 0.1 + seed / 100) for seed in (0, 1, 2)])
    start = state("one", 0, 0.1)["points"][0]["scores"]["metrics"]["utility"]["per_item"]
    assert rows[0]["utility"] == tables.show(over_items(list(start.values())), 3) != "0.250 [0.250, 0.250]"
    assert rows[1]["utility"] == tables.show(over_seeds([0.35, 0.36, 0.37]), 3)


def of_amount(method, gain, *, pairs, steps):
    """Three seeds of a method that trained on so much."""
    states = [state(method, seed, gain * (1 + seed / 100)) for seed in (0, 1, 2)]
    for member in states:
        member["points"][1] |= {"pairs": pairs, "steps": steps}
    return states


@pytest.mark.parametrize(
    ("pairs", "steps", "remedy"),
    [
        ((76, 96), (7, 8), "pairs_per_iteration=76 for all of them would match them"),
        ((96, 76), (8, 8), "pairs_per_iteration=76 for all of them would match them"),
        ((96, 96), (8, 24), "the same train.pairs_per_step, train.epochs and warmup_epochs would match them"),
    ],
)
def test_methods_that_trained_on_different_amounts_are_not_ranked_and_what_would_match_them_is_said(pairs, steps, remedy, tmp_path):
    one, two = (
        of_amount(name, gain, pairs=p, steps=s) for name, gain, p, s in zip(("one", "two"), (0.3, 0.1), pairs, steps, strict=True)
    )
    (found,) = compare({"one": one, "two": two})
    assert found.gap.separable and found.gap.mean == pytest.approx(0.2, abs=0.01)  # one would be called better
    (row,) = tables.comparisons([found])
    assert row["verdict"] == "not matched" and row["p (Holm)"] == "-" and verdict.between([found]) == []
    said = f"NO COMPARISON of these, which did not train on the same amount: one on {pairs[0]} pairs in {steps[0]} steps;"
    assert verdict.unmatched([found]) == [f"{said} two on {pairs[1]} pairs in {steps[1]} steps. {remedy}."]
    text = study(tmp_path, [*one, *two])
    assert text.index(said) < text.index("one: after iteration") and "is better" not in text.split("Who is ahead")[1]


def test_seeds_are_matched_one_by_one_and_not_by_their_sums():
    one, two = (of_amount(name, 0.1, pairs=8, steps=4) for name in ("one", "two"))
    assert compare({"one": one, "two": two})[0].matched
    one[0]["points"][1]["pairs"], one[1]["points"][1]["pairs"] = 6, 10
    assert not compare({"one": one, "two": two})[0].matched


def test_what_was_not_tested_does_not_count_in_the_correction():
    """Two groups with a p each; a third that did not get so far, one of two prompts and an unmatched one take nothing from them."""
    rows = {"one": (0.2, 0.21, 0.19), "two": (0.1, 0.12, 0.11)}
    grouped = {label: [state(label, seed, g) for seed, g in enumerate(gains)] for label, gains in rows.items()}
    before = verdict.against_start(grouped)
    begun, few = state("three", 0, 0.1, status="running"), state("four", 0, 0.1)
    begun["points"] = begun["points"][:1]
    for point in few["points"]:
        metric = point["scores"]["metrics"]["utility"]
        metric["per_item"] = dict(list(metric["per_item"].items())[:2])
    after = verdict.against_start(grouped | {"three": [begun], "four": [few]})
    assert after[:2] == before and "for all 2 groups together" in before[0]
    assert after[3] == "four: after iteration 1, utility is +0.100 against the start model's: 2 prompts, too few to say."
    loose = of_amount("loose", 0.3, pairs=99, steps=9)
    assert [this.p_holm for this in compare(grouped | {"loose": loose})] == [compare(grouped)[0].p_holm, None, None]


def test_prompts_of_few_conversations_say_nothing_however_many_seeds_there_are(tmp_path):
    """Twelve prompts: of twelve conversations a result, of three none, with one seed as with three."""
    for count in (1, 3):
        states = [state("one", seed, 0.1 + seed / 1000) for seed in range(count)]
        assert gain(states, "iteration 1").separable and "[" in tables.rows("one", states)[1]["utility"]
        for point in (point for member in states for point in member["points"]):
            point["scores"]["conversations"] = {str(i): f"c{i % 3}" for i in range(12)}
        (said,) = verdict.against_start({"one": states})
        assert said.endswith(f"{'3 seeds on ' if count == 3 else ''}12 prompts of 3 conversations, too few to say.")
        row = tables.rows("one", states)[1]
        assert row["against start"].endswith("too few prompts") and "[" not in row["utility"] + row["against start"]


def test_a_run_without_a_metric_is_not_set_against_another_runs():
    """Of three seeds the first has no start scores and the second no later ones: the gain is the third's, and no mixture."""
    states = [state("one", seed, shift) for seed, shift in enumerate((0.5, 0.7, 0.1))]
    states[0]["points"][0]["scores"]["metrics"]["utility"]["per_item"] = {}
    states[1]["points"][1]["scores"]["metrics"]["utility"]["per_item"] = None
    found = gain(states, "iteration 1")
    assert found.mean == pytest.approx(0.1) and found.over == "12 prompts"


def test_who_is_ahead_says_what_was_compared_and_nothing_of_what_was_not():
    groups_of = lambda *gains: {f"g{i}": [state(f"g{i}", s, g * (1 + s / 100)) for s in (0, 1, 2)] for i, g in enumerate(gains)}  # noqa: E731
    assert verdict.between(compare(groups_of(0.3, 0.1))) == ["Between them: g0 and g1: g0 is better."]
    equal = compare(groups_of(0.3, 0.1) | {"g2": [state("g2", s, g) for s, g in enumerate((0.8, -0.4, 0.5))]})
    assert verdict.between(equal) == ["Between them: g0 and g1: g0 is better. Of the others compared, none is separable."]
    assert verdict.between(equal[1:]) == ["Between them: no difference is separable."] and verdict.between([]) == []
    one_seed = {label: states[:1] for label, states in groups_of(0.3, 0.1).items()}
    assert "a word on methods needs several seeds" in verdict.between(compare(one_seed))[0]


def test_a_page_says_what_the_alarms_could_see(tmp_path):
    watching = ["chosen_fall", "length_ratio", "perplexity_ratio"]
    quiet, loud = (state("one", seed, 0.1) | {"watched": watching, "environment": {"commit": "abc"}} for seed in (0, 1))
    said = "Watched: chosen_fall, length_ratio. Not measured by this evaluation: perplexity_ratio."
    text = study(tmp_path, [quiet])
    assert f"None sounded. {said}" in text and "Alarms sounded" not in text and "Made with commit abc." in text
    (tmp_path / "0").rename(tmp_path / "2")
    loud["alarms"] = [{"iteration": 1, "during": "training, step 5", "name": "chosen_fall", "text": "fell"}]
    text = study(tmp_path, [quiet, loud])
    assert "None sounded" not in text and said in text and "Alarms sounded in 1 of 3 runs; see below." in text


def test_members_of_a_sweep_are_found_however_deep_they_lie(tmp_path):
    deep = tmp_path / "method=one" / "data.path=" / "logs" / "seed=0"
    deep.mkdir(parents=True)
    (deep / "run.json").write_text(json.dumps(state("one", 0, 0.1)))
    with pytest.raises(UserError, match="neither a run"):
        html.report_of(tmp_path)
    (tmp_path / "multirun.yaml").touch()
    assert "<h1>one run" in html.report_of(tmp_path).read_text() and (tmp_path / "results.csv").is_file()


def test_of_very_many_groups_each_is_compared_with_the_first():
    grouped = {f"run {i}": [state(f"run {i}", 0, i / 100)] for i in range(MOST_COMPARED + 1)}
    found = compared(grouped)
    assert [row["comparison"] for row in found] == [f"run 0 - run {i}" for i in range(1, len(grouped))]
    assert found[-1]["verdict"] == f"run {len(grouped) - 1} is better"


def test_the_sample_browser_takes_one_seed_of_all_and_never_the_start_model_for_a_run(tmp_path):
    states = {
        tmp_path / f"{i}-{label}": state(label, seed, 0.1) for i, (label, seed) in enumerate([("one", 0), ("two", 1), ("one", 1)])
    }
    labels = groups(list(states.values()))
    grouped = {label: [place for place, one in states.items() if one in group] for label, group in labels.items()}
    assert html._side_by_side(grouped, states) == {"one": tmp_path / "2-one", "two": tmp_path / "1-two"}
    for name in ("iteration_0", "iteration_9", "iteration_10", "warm_start"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "replies.jsonl").touch()
    find = lambda: samples.last(tmp_path, "replies.jsonl", warm_start=True)  # noqa: E731
    assert find() == "iteration_10"
    for name in ("iteration_9", "iteration_10"):
        (tmp_path / name / "replies.jsonl").unlink()
    assert find() == "warm_start" and samples.last(tmp_path, "replies.jsonl") is None


def test_members_are_in_the_order_of_their_numbers(tmp_path):
    names = [f"{i}-drift" for i in (10, 9, 1)]
    assert sorted((tmp_path / name / "run.json" for name in names), key=foreign.natural)[0].parent.name == "1-drift"
    assert sorted((tmp_path / name / "run.json" for name in names), key=foreign.natural)[-1].parent.name == "10-drift"


def test_training_is_averaged_step_by_step_though_a_seed_was_killed():
    whole = [{"iteration": i, "step": s, "loss": 1.0} for i in (1, 2) for s in (1, 2)]
    moments, means = plots.mean_over_seeds({"one": [[row | {"loss": 3.0} for row in whole[:1]], whole], "two": [whole[2:]]})
    assert moments == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert list(means["one"]["loss"]) == [2.0, 1.0, 1.0, 1.0] and list(np.isnan(means["two"]["loss"])) == [True, True, False, False]


def test_a_sweep_leaves_its_numbers_as_files(tmp_path):
    """Two seeds of one method, one of another with an override of its own; every number is one that the page shows too."""
    states = [*(state("one", seed, 0.1 + seed / 100) for seed in (0, 1)), state("two", 0, 0.3)]
    states[2]["title"]["train.loss.beta"] = "0.05"
    study(tmp_path, states)
    results, comparisons = (list(csv.DictReader((tmp_path / name).open())) for name in ("results.csv", "comparisons.csv"))
    assert [(row["run"], row["method"], row["seed"], row["train.loss.beta"], row["policy"]) for row in results] == [
        (str(i), method, seed, beta, policy)
        for i, (method, seed, beta) in enumerate([("one", "0", ""), ("one", "1", ""), ("two", "0", "0.05")])
        for policy in ("start", "iteration 1")
    ]
    last = results[-1]
    items = states[2]["points"][1]["scores"]["metrics"]["utility"]["per_item"]
    assert float(last["utility"]) == pytest.approx(np.mean(list(items.values())))
    assert [float(last[f"utility {end}"]) for end in ("low", "high")] == pytest.approx([level([items]).low, level([items]).high])
    assert float(last["against start"]) == pytest.approx(0.3) and float(last["against start p"]) == pytest.approx(2 / 2**12)
    assert (last["words"], last["pairs"], last["steps"]) == ("5.0", "8", "4")
    (row,) = comparisons
    assert (row["one"], row["other"], row["matched"], row["over"]) == ("one", "two, train.loss.beta=0.05", "True", "12 prompts")
    assert float(row["difference"]) == pytest.approx(-0.2) and row["p"] == row["p (Holm)"] and row["verdict"].startswith("two")


def test_a_page_says_what_it_cost_and_what_to_do_next(tmp_path):
    few, loud = state("one", 0, 0.1), state("one", 1, 0.1)
    few |= {"outlook": ["Held out: 1.", "1 pair: TOO FEW.", "evaluation.share=0.5 helps."], "meanings": {"utility": "of 0 to 1"}}
    loud["alarms"] = [{"iteration": 1, "during": "sampling", "name": "cut_excess", "text": "cut"}]
    loud["stages"] += [{"name": "replies", "seconds": 9.0, "peak_gib": 0.7, "hit": False, "tokens": 1234}]
    loud["stages"] += [{"name": "score", "seconds": 9.0, "peak_gib": 0.1, "hit": True}]
    text = study(tmp_path, [few, loud])
    cost = "Cost: 4 s of computing, 1,234 tokens sampled, 0 trained on, 0.7 GiB of memory at most; 1 of 4 stages were found"
    assert cost in text and "utility: of 0 to 1." in text and "Held out: 1. 1 pair: TOO FEW." in text
    steps = [line.split("</li>")[0] for line in text.split("<li>")[1:]]
    assert steps[0] == "evaluation.share=0.5 helps." and steps[1].startswith("The alarm cut_excess sounded: raise sampler.max_new")
    (tmp_path / "0/run.json").write_text(json.dumps(few | {"status": "running"}))
    assert "<li>" not in html.study_report(tmp_path).read_text()  # not before it is over


def test_a_better_policy_is_pointed_at_and_a_heading_says_of_what_and_when(tmp_path):
    good = state("one", 0, 0.1)
    good["title"]["data.path"], good["notes"], good["begun"] = (
        "/logs/march.jsonl",
        {"data": "records", "model": "m"},
        "2026-11-26T12:01:59",
    )
    text = study(tmp_path, [good])
    assert "<title>one run on records (march.jsonl) with m, 2026-11-26 12:01</title>" in text
    (tmp_path / "0/iteration_1/policy").mkdir(parents=True)
    assert f"one is better: its policy is {tmp_path}/0/iteration_1/policy;" in html.study_report(tmp_path).read_text()


def test_a_report_says_that_samples_went_with_the_store(tmp_path):
    (tmp_path / "run/iteration_1").mkdir(parents=True)
    (tmp_path / "run/run.json").write_text(json.dumps(state("one", 0, 0.1)))
    assert "are gone" not in html.run_report(tmp_path / "run").read_text()
    (tmp_path / "run/iteration_1/pairs.jsonl").symlink_to("../../store/pairs/abc/pairs.jsonl")
    text = html.run_report(tmp_path / "run").read_text()
    assert "1 entries of this folder link to files that are gone (pairs.jsonl)" in text and "store/pairs/abc" in text


def test_a_member_of_a_sweep_is_called_by_its_path_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert closing.shown(tmp_path / "outputs/report.html") == closing.shown(Path("outputs/report.html")) == "outputs/report.html"
    assert closing.shown(ROOT / "report.html") == str(ROOT / "report.html")


def test_settings_that_differ_are_listed_and_only_those(tmp_path):
    folders = [tmp_path / "0-drift", tmp_path / "1-spin"]
    for folder, rate in zip(folders, ("0.0001", "null"), strict=True):
        folder.mkdir()
        (folder / "config.yaml").write_text(f"seed: 0\ntrain:\n  learning_rate: {rate}\n  loss: {{beta: 0.1}}\n")
    assert differing({"drift": folders[:1], "spin": folders[1:]}, foreign.Reader()) == [
        {"setting": "train.learning_rate", "drift": "0.0001", "spin": "null"}
    ]
    assert differing({"both": folders}, foreign.Reader()) == [{"setting": "train.learning_rate", "both": "0.0001, null"}]


def test_a_report_is_built_anew_from_the_command_line_and_wrong_folders_are_named(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(state("one", 0, 0.1, status="running")))
    for folder, code, words in ((tmp_path, 0, "Report: "), (tmp_path / "no", 1, "holds neither a run")):
        done = subprocess.run(
            [sys.executable, "-m", "drift", "report", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == code and words in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "report.html").is_file()


def test_text_of_a_data_set_is_escaped(tmp_path):
    attack = "<script>alert(1)</script>"
    folder = tmp_path / "run"
    (folder / "iteration_1").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(state("one", 0, 0.1)))
    prompt = [{"role": "user", "content": attack}]
    record = {
        "id": "r", "conversation": "c", "prompt": prompt, "reply": attack, "label": "dsat", "ended": True, "feedback": attack,
        "revised": None, "satisfied": False, "truth": None, "provenance": {"detector": attack, "category": attack, "confidence": 1},
    }  # fmt: skip
    (folder / "records.jsonl").write_text(json.dumps(record) + "\n")
    row = {"prompt": prompt, "chosen": attack, "rejected": attack, "feedback": attack, "fresh": ["chosen"], "record": "r"}
    row |= {"chosen_ended": False, "rejected_ended": True}
    (folder / "iteration_1" / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    text = html.run_report(folder).read_text()
    assert attack not in text and text.count("&lt;script&gt;") == 6
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
