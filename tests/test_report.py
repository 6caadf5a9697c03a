"""Statistics against hand-made and library numbers; reports are built from what is on disk and escape what is in the data."""

import csv
import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scipy import stats
from statsmodels.stats.multitest import multipletests

from drift.errors import UserError
from drift.logger.csv import CsvFiles
from drift.report import advice, closing, foreign, html, plots, samples, tables, verdict
from drift.report.compare import MOST_COMPARED, NO_DIFFERENCE, compare
from drift.report.members import gain, grouped, groups
from drift.report.settings import differing
from drift.report.shapes import plain
from drift.report.state import VERSION, Alarm, Member, Metric, Point, RunState, Scores, SpentStage
from drift.statistics import Difference, holm, level, over_items, over_seeds, paired


def test_t_interval_over_seeds_equals_scipys():
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
    assert found.mean == pytest.approx(0.5) and found.high - found.low < 1e-9 and found.significant


def test_nothing_is_called_significant_that_touches_zero():
    assert not paired([{"a": 1.0, "b": 0.0}], [{"a": 0.0, "b": 1.0}]).significant
    known = {"mean": 1.0, "over": "", "p": 0.01, "effect": None, "few": False}
    assert Difference(low=0.1, high=1.9, **known).significant and not Difference(low=0.0, high=2.0, **known).significant
    assert (
        not Difference(low=None, high=None, **known).significant
        and not Difference(low=0.1, high=1.9, **known | {"p": 0.06}).significant
    )


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
    assert (found.mean, found.low, found.high, found.p) == (3.5, 1.0, 6.0, 2 / 64) and found.significant
    five = paired([{str(i): 1.0 for i in range(5)}], [dict.fromkeys("01234", 0.0)])
    assert (five.low, five.high, five.p) == (None, None, 2 / 32) and five.few and not five.significant
    rng = np.random.default_rng(7)
    for size, shift in itertools.product((8, 13, 14, 40), (0.2, 0.5, 0.7)):
        now = {str(i): value for i, value in enumerate(rng.normal(shift, 1, size))}
        found = paired([now], [dict.fromkeys(now, 0.0)])
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
        theirs = stats.permutation_test((list(now.values()),), np.mean, permutation_type="samples", rng=rng)
        assert found.p == pytest.approx(theirs.pvalue, abs=0.02)


def test_items_of_one_conversation_count_as_one():
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
@pytest.mark.slow
def test_intervals_have_their_nominal_coverage(seeds):
    """96 prompts of which .3 succeed, under two equal policies: how often the interval of level and of difference has the truth."""
    rng, runs = np.random.default_rng(seeds), 400 if seeds == 1 else 3000
    hits = {"level": 0, "difference": 0}
    for _ in range(runs):
        one, other = (
            [{str(i): float(value) for i, value in enumerate(rng.binomial(1, 0.3, 96))} for _ in range(seeds)] for _ in range(2)
        )
        now, gap = level(one), paired(one, other)
        for name, found, true in (("level", now, 0.3), ("difference", gap, 0.0)):  # three equal means have no interval: a miss
            hits[name] += found.low is not None and found.low <= true <= found.high
    margin = 0.03 if seeds > 1 else 0.04  # of 400 runs, 95 % is .95 +- .02
    assert {name: abs(count / runs - 0.95) <= margin for name, count in hits.items()} == {"level": True, "difference": True}, hits


def state(method, seed, gain, status="finished", error=None):
    """A run of that gain over twelve prompts."""

    def scores(shift):
        items = {str(i): 0.2 + 0.05 * (i % 3) + shift for i in range(12)}
        metric = Metric(value=sum(items.values()) / 12, per_item=items, digits=3)
        return {
            "deployment": Scores(
                headline="utility", metrics={"utility": metric, "words": Metric(value=5.0, per_item=None, digits=1)}
            )
        }

    trained = Point(
        iteration=1, name="iteration 1", scores=scores(gain), examples=8, steps=4, distinct_prompts=6, generated_tokens=99,
        prompts_too_long=0, counts={"seen": 9, "used": 8, "tie": 1}, first_step={"dpo": 0.6931472, "margin": 0.0},
    )  # fmt: skip
    return RunState(
        version=VERSION, title={"method": method, "seed": str(seed)}, notes={"judge": "none"}, status=status, error=error,
        data={"DSAT": 5}, evaluations={"deployment": {}}, outlook=[],
        points=[Point(iteration=0, name="start", scores=scores(0.0)), trained],
        stages=[SpentStage(name="train", seconds=2.0, peak_gib=0.5, hit=False)],
        alarms=[], watched=[], environment={}, begun="", seconds=0.0,
    )  # fmt: skip


def headline(point):
    """The scores of its headline evaluation."""
    return next(iter(point.scores.values()))


def with_items(point, items):
    """Puts other per-prompt values in the place of its utility's."""
    scores = headline(point)
    metric = replace(scores.metrics["utility"], per_item=items(scores.metrics["utility"].per_item))
    point.scores = {"deployment": replace(scores, metrics=scores.metrics | {"utility": metric})}


def write(folder, state):
    """As a run would."""
    (folder / "run.json").write_text(json.dumps(plain(state)))


def compared(grouped):
    return tables.comparisons(compare(grouped))


def study(folder, states):
    for i, member in enumerate(states):
        (folder / str(i)).mkdir(parents=True)
        write(folder / str(i), member)
    return html.study_report(folder).read_text()


def test_a_study_says_which_is_better_or_that_there_is_no_significant_difference(tmp_path):
    gains = {"one": (0.2, 0.21, 0.19), "two": (0.1, 0.1, 0.1), "three": (0.0, 0.4, 0.2)}
    states = [state(method, seed, gain) for method, row in gains.items() for seed, gain in enumerate(row)]
    found = {row["comparison"]: row["verdict"] for row in compared(groups(states))}
    assert found == {"one - two": "one is better", "one - three": NO_DIFFERENCE, "two - three": NO_DIFFERENCE}
    text = study(tmp_path, states)
    assert "one is better" in text and "no significant difference" in text and "<svg" in text and "3 seeds" in text


def test_groups_are_named_by_what_tells_them_apart_and_a_sentence_has_the_rest(tmp_path):
    """Each method has a rate of its own, and drift two betas: only these are in the names."""
    runs = [("drift", "1e-4", ".1"), ("drift", "1e-4", ".5"), ("sft", "2e-4", None)]
    states = [state(method, seed, 0.1 + seed / 100) for method, _, _ in runs for seed in (0, 1, 2)]
    for member, (_, rate, beta) in zip(states, [run for run in runs for _ in range(3)], strict=True):
        member.title |= {"train.learning_rate": rate} | ({"objective.dpo.beta": beta} if beta else {})
    named = groups(states)
    assert {label: len(members) for label, members in named.items()} == {
        "drift, objective.dpo.beta=.1": 3, "drift, objective.dpo.beta=.5": 3, "sft": 3
    }  # fmt: skip
    (said,) = verdict.not_alone(states)
    assert said == "Not only the methods differ: so do train.learning_rate (settings that differ, in the report)."
    assert verdict.not_alone(states[:6]) == []


def test_a_run_that_was_repeated_counts_once(tmp_path, capsys):
    """Six times seed 0, as a folder of all runs may have it, are one seed: the interval is over its prompts, not over six seeds. Of
    repeats the one that came furthest counts."""
    runs = [state("one", 0, 0.1) for _ in range(6)]
    runs[-1].points = runs[-1].points[:1]
    (group,) = groups(runs).values()
    assert group == [runs[4]] and verdict.against_start(groups(runs)) == verdict.against_start({"one": [runs[0]]})
    text = study(tmp_path, runs)
    assert "12 prompts" in text and "6 seeds" not in text
    once = "Of 6 runs, 5 repeat the settings and seeds of another one, which says nothing new: they count once."
    closing.sweep(tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert once in text and once in said and "Cost: 12 s of computing" in said, "2 s each: a repeat has its cost"
    assert verdict.repeats([state("one", seed, 0.1) for seed in (0, 1)]) == []


def test_rows_list_what_each_method_cost(tmp_path):
    row = tables.rows("one", [state("one", 0, 0.1)])[1]
    assert [row[name] for name in ("distinct prompts", "examples", "steps", "generated tokens")] == ["6", "8", "4", "99"]
    assert row["against start"].startswith("+0.100") and row["words"] == "5.0"


def test_failed_and_unfinished_members_are_in_the_report(tmp_path):
    begun = state("two", 0, 0.1, status="running")
    begun.points = begun.points[:1]
    text = study(tmp_path, [state("one", 0, 0.1), begun, state("three", 0, 0.1, status="failed", error="UserError: <b>no</b>")])
    assert "two: no run has evaluated a trained policy so far" in text and "running, or killed: last written 20" in text
    assert "three, seed 0 failed: UserError: &lt;b&gt;no&lt;/b&gt;" in text


def test_a_run_killed_before_its_evaluation_hides_no_other_seed(tmp_path):
    killed = state("one", 0, 0.1, status="running")
    killed.points[1].scores = {}
    states = [killed, *(state("one", seed, 0.1 + seed / 100) for seed in (1, 2, 3))]
    assert [row["policy"] for row in tables.rows("one", states)] == ["start", "iteration 1 (3 of 4 runs)"]
    assert "one: after iteration 1, utility is better" in study(tmp_path, states)


def test_the_page_says_that_one_of_two_seeds_was_killed(tmp_path):
    killed = state("one", 1, 0.1, status="running")
    killed.points[1].scores = {}
    assert "one: only 1 of 2 runs has evaluated a trained policy so far" in study(tmp_path, [state("one", 0, 0.1), killed])


def test_two_seeds_with_the_same_gain_and_one_of_many_lucky_groups_are_not_called_better(tmp_path):
    text = study(tmp_path, [state("one", seed, 0.1) for seed in (0, 1)])  # no spread, so there is no interval
    assert "one: after iteration 1, utility shows no significant difference from the start model&#39;s (+0.100" in text
    assert "+0.100, p 0.500" in text  # the table says why: of two signs, one in two patterns is as far out
    gains = {"one": (0.1, 0.2, 0.16)} | {f"other{i}": (0.1, -0.1, 0.0) for i in range(9)}
    states = {label: [state(label, seed, gain) for seed, gain in enumerate(row)] for label, row in gains.items()}
    assert gain(states["one"], "iteration 1").significant  # alone it would be
    assert (
        f"one: after iteration 1, utility shows {NO_DIFFERENCE} from the start model's once corrected for 10 groups"
        in verdict.against_start(states)[0]
    )
    members = {label: [Member(folder=tmp_path, state=one) for one in group] for label, group in states.items()}
    assert "is better than the start model" in advice.next_steps({"one": members["one"]}, [])[0]
    assert advice.next_steps(members, []) == [], "the advice says no more than the verdict"


def test_only_runs_with_the_same_evaluation_and_prompts_are_compared(tmp_path):
    """Another headline, other prompts; the report holds them all the same."""
    one, other, third = ([state(method, seed, 0.1 * seed) for seed in (0, 1)] for method in ("one", "other", "third"))
    for point in (point for member in other for point in member.points):
        point.scores = {"heldout": Scores(headline="margin", metrics={"margin": headline(point).metrics["utility"]})}
    for point in (point for member in third for point in member.points):
        with_items(point, lambda items: {f"third {key}": value for key, value in items.items()})
    assert compared(groups([*one, *other, *third])) == []
    text = study(tmp_path, [*one, *other, *third])
    assert "other: after iteration 1, margin" in text and "Between groups" not in text
    assert "NOT COMPARED with another group: one, other, third. Groups need seeds in common" in text
    assert "NOT COMPARED" not in study(tmp_path / "again", [*one, *(state("four", seed, 0.2) for seed in (0, 1))])


def test_a_warm_start_alone_is_compared_with_iterations(tmp_path):
    warm = [state("warm", seed, 0.3 + seed / 100) for seed in (0, 1, 2)]
    for member in warm:
        member.points[1].name = "warm start"
    (row,) = compared({"warm": warm, "one": [state("one", seed, 0.1) for seed in (0, 1, 2)]})
    assert row["at"] == "warm start, iteration 1" and row["verdict"] == "warm is better"


def test_a_tiny_p_is_not_shown_as_zero():
    ahead = [state("one", seed, gain) for seed, gain in enumerate((0.3, 0.301, 0.299))]
    (row,) = compared({"one": ahead, "two": [state("two", seed, 0.1) for seed in (0, 1, 2)]})
    assert row["p (Holm)"] == "< 0.001" and row["verdict"] == "one is better"


def test_equal_start_models_count_as_one_evaluation():
    """Three seeds over the same log and prompts: the interval of the start model is over prompts, and has a width."""
    rows = tables.rows("one", [state("one", seed, 0.1 + seed / 100) for seed in (0, 1, 2)])
    start = headline(state("one", 0, 0.1).points[0]).metrics["utility"].per_item
    assert rows[0]["utility"] == tables.show(over_items(list(start.values())), 3) != "0.250 [0.250, 0.250]"
    assert rows[1]["utility"] == tables.show(over_seeds([0.35, 0.36, 0.37]), 3)


def of_amount(method, gain, *, examples, steps):
    """Three seeds of a method that trained on so much."""
    states = [state(method, seed, gain * (1 + seed / 100)) for seed in (0, 1, 2)]
    for member in states:
        member.points[1].examples, member.points[1].steps = examples, steps
    return states


@pytest.mark.parametrize(
    ("examples", "steps", "remedy"),
    [
        ((76, 96), (7, 8), "To match them, run all with examples_per_iteration=76"),
        ((96, 76), (8, 8), "To match them, run all with examples_per_iteration=76"),
        ((96, 96), (8, 24), "To match them, run all with the same train.examples_per_step, train.epochs and warmup_epochs"),
    ],
)
def test_methods_that_trained_on_different_amounts_are_not_ranked_and_the_report_says_how_to_match_them(
    examples, steps, remedy, tmp_path
):
    one, two = (
        of_amount(name, gain, examples=n, steps=s)
        for name, gain, n, s in zip(("one", "two"), (0.3, 0.1), examples, steps, strict=True)
    )
    (found,) = compare({"one": one, "two": two})
    assert found.gap.significant and found.gap.mean == pytest.approx(0.2, abs=0.01)  # one would be called better
    (row,) = tables.comparisons([found])
    assert row["verdict"] == "not matched" and row["p (Holm)"] == "-" and verdict.between([found]) == []
    said = f"NOT RANKED, because they did not train on the same amount: one on {examples[0]} examples in {steps[0]} steps;"
    assert verdict.unmatched([found]) == [f"{said} two on {examples[1]} examples in {steps[1]} steps. {remedy}."]
    advised = f"Run the sweep again with {verdict.matching([found])}, so that all train on the same amount."
    assert remedy.endswith(verdict.matching([found]))
    text = study(tmp_path, [*one, *two])
    assert advised in text
    assert text.index(said) < text.index("one: after iteration") and "is better" not in text.split("<h2>Comparisons")[1]


def test_seeds_are_matched_one_by_one_and_not_by_their_sums():
    one, two = (of_amount(name, 0.1, examples=8, steps=4) for name in ("one", "two"))
    assert compare({"one": one, "two": two})[0].matched
    one[0].points[1].examples, one[1].points[1].examples = 6, 10
    assert not compare({"one": one, "two": two})[0].matched


def test_untested_groups_do_not_count_in_the_correction():
    """Two groups with a p each; a third that did not get so far, one of two prompts and an unmatched one take nothing from them."""
    rows = {"one": (0.2, 0.21, 0.19), "two": (0.1, 0.12, 0.11)}
    grouped = {label: [state(label, seed, g) for seed, g in enumerate(gains)] for label, gains in rows.items()}
    before = verdict.against_start(grouped)
    begun, few = state("three", 0, 0.1, status="running"), state("four", 0, 0.1)
    begun.points = begun.points[:1]
    for point in few.points:
        with_items(point, lambda items: dict(list(items.items())[:2]))
    after = verdict.against_start(grouped | {"three": [begun], "four": [few]})
    assert after[:2] == before and "corrected for all 2 groups" in before[0]
    assert after[3] == "four: after iteration 1, utility is +0.100 against the start model's: 2 prompts, too few to tell."
    loose = of_amount("loose", 0.3, examples=99, steps=9)
    assert [this.p_holm for this in compare(grouped | {"loose": loose})] == [compare(grouped)[0].p_holm, None, None]


def test_prompts_of_too_few_conversations_allow_no_verdict_with_any_number_of_seeds(tmp_path):
    """Twelve prompts: of twelve conversations a result, of three none, with one seed as with three."""
    for count in (1, 3):
        states = [state("one", seed, 0.1 + seed / 1000) for seed in range(count)]
        assert gain(states, "iteration 1").significant and "[" in tables.rows("one", states)[1]["utility"]
        for point in (point for member in states for point in member.points):
            point.scores = {"deployment": replace(headline(point), conversations={str(i): f"c{i % 3}" for i in range(12)})}
        (said,) = verdict.against_start({"one": states})
        assert said.endswith(f"{'3 seeds on ' if count == 3 else ''}12 prompts of 3 conversations, too few to tell.")
        row = tables.rows("one", states)[1]
        assert row["against start"].endswith("too few prompts") and "[" not in row["utility"] + row["against start"]


def test_a_run_without_the_metric_is_not_compared():
    """Of three seeds the first has no start scores and the second no later ones: the gain is the third's, and no mixture."""
    states = [state("one", seed, shift) for seed, shift in enumerate((0.5, 0.7, 0.1))]
    with_items(states[0].points[0], lambda items: {})
    with_items(states[1].points[1], lambda items: None)
    found = gain(states, "iteration 1")
    assert found.mean == pytest.approx(0.1) and found.over == "12 prompts"


def test_the_verdict_is_only_about_what_was_compared():
    groups_of = lambda *gains: {f"g{i}": [state(f"g{i}", s, g * (1 + s / 100)) for s in (0, 1, 2)] for i, g in enumerate(gains)}  # noqa: E731
    assert verdict.between(compare(groups_of(0.3, 0.1))) == ["Between groups: g0 and g1: g0 is better."]
    equal = compare(groups_of(0.3, 0.1) | {"g2": [state("g2", s, g) for s, g in enumerate((0.8, -0.4, 0.5))]})
    assert verdict.between(equal) == [
        "Between groups: g0 and g1: g0 is better. The other comparisons show no significant difference."
    ]
    assert verdict.between(equal[1:]) == ["Between groups: no significant difference."] and verdict.between([]) == []
    one_seed = {label: states[:1] for label, states in groups_of(0.3, 0.1).items()}
    assert "To compare methods, run several seeds." in verdict.between(compare(one_seed))[0]


def test_a_page_lists_the_alarms_that_could_be_raised(tmp_path):
    watching = ["chosen_shift", "length_ratio", "perplexity_ratio"]
    quiet, loud = (replace(state("one", seed, 0.1), watched=watching, environment={"commit": "abc"}) for seed in (0, 1))
    said = "Alarms that were on: chosen_shift, length_ratio. Not measured by the evaluations of these runs: perplexity_ratio."
    text = study(tmp_path, [quiet])
    assert f"None was raised. {said}" in text and "Alarms were raised" not in text and "Made with commit abc." in text
    (tmp_path / "0").rename(tmp_path / "2")
    loud.alarms = [Alarm(iteration=1, during="training, step 5", name="chosen_shift", text="fell")]
    text = study(tmp_path, [quiet, loud])
    assert "None was raised" not in text and said in text and "Alarms were raised in 1 of 3 runs." in text


def test_members_of_a_sweep_are_found_at_any_depth(tmp_path):
    deep = tmp_path / "method=one" / "data.path=" / "logs" / "seed=0"
    deep.mkdir(parents=True)
    write(deep, state("one", 0, 0.1))
    with pytest.raises(UserError, match="neither a run"):
        html.report_of(tmp_path)
    (tmp_path / "multirun.yaml").touch()
    assert "<h1>one run" in html.report_of(tmp_path).read_text() and (tmp_path / "results.csv").is_file()


def test_with_very_many_groups_each_is_compared_with_the_first():
    grouped = {f"run {i}": [state(f"run {i}", 0, i / 100)] for i in range(MOST_COMPARED + 1)}
    found = compared(grouped)
    assert [row["comparison"] for row in found] == [f"run 0 - run {i}" for i in range(1, len(grouped))]
    assert found[-1]["verdict"] == f"run {len(grouped) - 1} is better"


def test_the_sample_browser_shows_one_seed_for_all_groups_and_only_trained_policies(tmp_path):
    runs = [
        Member(folder=tmp_path / f"{i}-{label}", state=state(label, seed, 0.1))
        for i, (label, seed) in enumerate([("one", 0), ("two", 1), ("one", 1)])
    ]
    chosen = {label: member.folder.name for label, member in html.side_by_side(grouped(runs)).items()}
    assert chosen == {"one": "2-one", "two": "1-two"}
    for name in ("iteration_0", "iteration_9", "iteration_10", "warm_start"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "replies.jsonl").touch()
    find = lambda: samples.last(tmp_path, "replies.jsonl", warm_start=True)  # noqa: E731
    assert find() == "iteration_10"
    for name in ("iteration_9", "iteration_10"):
        (tmp_path / name / "replies.jsonl").unlink()
    assert find() == "warm_start" and samples.last(tmp_path, "replies.jsonl") is None


def test_members_are_sorted_by_number(tmp_path):
    names = [f"{i}-drift" for i in (10, 9, 1)]
    assert sorted((tmp_path / name / "run.json" for name in names), key=foreign.natural)[0].parent.name == "1-drift"
    assert sorted((tmp_path / name / "run.json" for name in names), key=foreign.natural)[-1].parent.name == "10-drift"


def test_training_is_averaged_step_by_step_though_a_seed_was_killed():
    whole = [{"iteration": i, "step": s, "loss": 1.0} for i in (1, 2) for s in (1, 2)]
    moments, means = plots.mean_over_seeds({"one": [[row | {"loss": 3.0} for row in whole[:1]], whole], "two": [whole[2:]]})
    assert moments == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert list(means["one"]["loss"]) == [2.0, 1.0, 1.0, 1.0] and list(np.isnan(means["two"]["loss"])) == [True, True, False, False]


def test_a_sweep_writes_its_numbers_to_csv_files(tmp_path):
    """Two seeds of one method, one of another with an override of its own; every number is one that the page shows too."""
    states = [*(state("one", seed, 0.1 + seed / 100) for seed in (0, 1)), state("two", 0, 0.3)]
    states[2].title["train.loss.beta"] = "0.05"
    study(tmp_path, states)
    results, comparisons = (list(csv.DictReader((tmp_path / name).open())) for name in ("results.csv", "comparisons.csv"))
    assert [(row["run"], row["method"], row["seed"], row["train.loss.beta"], row["policy"]) for row in results] == [
        (str(i), method, seed, beta, policy)
        for i, (method, seed, beta) in enumerate([("one", "0", ""), ("one", "1", ""), ("two", "0", "0.05")])
        for policy in ("start", "iteration 1")
    ]
    last = results[-1]
    items = headline(states[2].points[1]).metrics["utility"].per_item
    assert float(last["utility"]) == pytest.approx(np.mean(list(items.values())))
    assert [float(last[f"utility {end}"]) for end in ("low", "high")] == pytest.approx([level([items]).low, level([items]).high])
    assert float(last["against start"]) == pytest.approx(0.3) and float(last["against start p"]) == pytest.approx(2 / 2**12)
    assert (last["words"], last["examples"], last["steps"]) == ("5.0", "8", "4")
    (row,) = comparisons
    assert (row["one"], row["other"], row["matched"], row["over"]) == ("one", "two", "True", "12 prompts")
    assert float(row["difference"]) == pytest.approx(-0.2) and row["p"] == row["p (Holm)"] and row["verdict"].startswith("two")


def test_a_page_says_what_it_cost_and_what_to_do_next(tmp_path):
    few, loud = state("one", 0, 0.1), state("one", 1, 0.1)
    few.outlook = ["Held out: 1.", "1 pair: TOO FEW.", "To show that 70%: evaluation.share=0.5.", "IFEval: 8 prompts."]
    few.evaluations = {"deployment": {"utility": "of 0 to 1"}}
    loud.alarms = [Alarm(iteration=1, during="sampling", name="cut_excess", text="cut")]
    loud.stages.append(SpentStage(name="replies", seconds=9.0, peak_gib=0.7, hit=False, tokens=1234))
    loud.stages.append(SpentStage(name="score", seconds=9.0, peak_gib=0.1, hit=True))
    text = study(tmp_path, [few, loud])
    cost = "Cost: 4 s of computing, 1,234 tokens sampled, 0 trained on, 0.7 GiB of memory at most; 1 of 4 stages were found"
    assert cost in text and "utility: of 0 to 1." in text and "Held out: 1. 1 pair: TOO FEW." in text
    steps = [line.split("</li>")[0] for line in text.split("<li>")[1:]]
    assert steps[0] == "To show that 70%: evaluation.share=0.5." and steps[1].startswith(
        "Because of the alarm cut_excess: raise sampler.max_new"
    )
    write(tmp_path / "0", replace(few, status="running"))
    assert "<li>" not in html.study_report(tmp_path).read_text()  # not before it is over


def test_the_page_names_the_path_of_a_better_policy_and_its_heading_names_data_model_and_date(tmp_path):
    good = state("one", 0, 0.1)
    good.title["data.path"], good.begun = "/logs/march.jsonl", "2026-11-26T12:01:59"
    good.notes = {"data": "records", "model": "m"}
    text = study(tmp_path, [good])
    assert "<title>one run on records (march.jsonl) with m, 2026-11-26 12:01</title>" in text
    (tmp_path / "0/iteration_1/policy").mkdir(parents=True)
    assert (
        f"one is better than the start model. To continue from it: model=pretrained model.path={tmp_path}/0/iteration_1/policy<"
        in html.study_report(tmp_path).read_text()
    )


def test_a_report_says_that_the_samples_are_gone_with_the_store(tmp_path):
    (tmp_path / "run/iteration_1").mkdir(parents=True)
    write(tmp_path / "run", state("one", 0, 0.1))
    assert "are gone" not in html.run_report(tmp_path / "run").read_text()
    (tmp_path / "run/iteration_1/examples.jsonl").symlink_to("../../store/pairs/abc/examples.jsonl")
    text = html.run_report(tmp_path / "run").read_text()
    assert "Some links of this folder lead to files that are gone (examples.jsonl)" in text and "store/pairs/abc" in text


def test_paths_are_shown_relative_to_the_working_directory(tmp_path, monkeypatch):
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
    write(tmp_path, state("one", 0, 0.1, status="running"))
    for folder, code, words in ((tmp_path, 0, "Report: "), (tmp_path / "no", 1, "contains neither a run")):
        done = subprocess.run(
            [sys.executable, "-m", "drift", "report", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == code and words in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "report.html").is_file()


def test_text_of_a_data_set_is_escaped(tmp_path):
    attack = "<script>alert(1)</script>"
    folder = tmp_path / "run"
    (folder / "iteration_1").mkdir(parents=True)
    write(folder, state("one", 0, 0.1))
    prompt = [{"role": "user", "content": attack}]
    record = {
        "id": "r", "conversation": "c", "prompt": prompt, "reply": attack, "label": "dsat", "ended": True, "feedback": attack,
        "revised": None, "satisfied": False, "truth": None, "provenance": {"detector": attack, "category": attack, "confidence": 1},
    }  # fmt: skip
    (folder / "records.jsonl").write_text(json.dumps(record) + "\n")
    sides = [{"text": attack, "ended": not good, "fresh": good, "good": good} for good in (True, False)]
    row = {"prompt": prompt, "replies": sides, "feedback": attack, "record": "r"}
    (folder / "iteration_1" / "examples.jsonl").write_text(json.dumps(row) + "\n")
    text = html.run_report(folder).read_text()
    assert attack not in text and text.count("&lt;script&gt;") == 6
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_a_run_json_is_read_as_it_was_written(tmp_path):
    whole = state("one", 0, 0.1)
    whole.alarms = [Alarm(iteration=1, during="sampling", name="cut_excess", text="cut")]
    write(tmp_path, whole)
    assert foreign.members_of(tmp_path) == [Member(folder=tmp_path, state=whole)]


def test_a_run_of_the_previous_version_has_a_report(tmp_path):
    """The folder of a run of the tiny model as it was written without a version, with its links as files: eight prompts of the
    evaluation, six pairs."""
    shutil.copytree(ROOT / "tests/golden/run-without-version", tmp_path / "run")
    (member,) = foreign.members_of(tmp_path / "run")
    start, trained = member.state.points
    assert (trained.examples, trained.steps, trained.distinct_prompts) == (6, 3, 6) and start.examples is None
    assert trained.first_step == {"dpo": 0.6931471824645996, "margin": 0.0} and trained.counts["seen"] == 6
    assert headline(start).metrics["request met"].value == 0.75 and len(headline(start).metrics["utility"].per_item) == 8
    text = html.run_report(tmp_path / "run").read_text()
    assert "was skipped" not in text and "drift: after iteration 1, utility shows no significant difference" in text
    assert (
        "6 candidates, 6 used" in text
        and "examples (with their replies)" in text
        and "share of test prompts whose request is met" in text
    )
    assert {item["kind"] for item in shown_in(tmp_path / "run")} == {"evaluation", "training"}
    sides = [remark for item in shown_in(tmp_path / "run") if item["kind"] == "training" for *_, remark, _ in item["replies"]]
    assert sides == ["good"] * 6  # what was sampled; the logged reply is above it


def shown_in(folder):
    """The samples of a run's page."""
    (member,) = foreign.members_of(folder)
    return samples.items({"run": member}, foreign.Reader())


def test_further_evaluations_have_their_own_tables_and_the_verdict_is_about_the_first(tmp_path):
    states = [state(label, seed, gain + seed / 100) for label, gain in (("one", 0.1), ("two", 0.3)) for seed in (0, 1, 2)]
    for member in states:
        member.evaluations = {"deployment": {}, "chat": {"rating": "of 0 to 10"}}
        for i, point in enumerate(member.points):
            items = {str(k): 5.0 + i * (k % 2 + int(member.title["seed"])) for k in range(8)}
            rating = Metric(value=sum(items.values()) / 8, per_item=items, digits=1)
            point.scores["chat"] = Scores(headline="rating", metrics={"rating": rating})
    text = study(tmp_path, states)
    first, further = text.split("<h2>Evaluation chat: rating by iteration")
    further = further.split("<h2>")[0]
    assert "one: after iteration 1, utility is better" in first and "rating" not in first
    after = paired([{"0": 5.5 + seed} for seed in (0, 1, 2)], [{"0": 5.0}] * 3)
    gained = tables.show_difference(replace(after, few=False), 3)
    assert further.count(f"<td>{gained}</td>") == 2 and "<b>rating</b>: of 0 to 10." in further and "<svg" in further
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["chat/rating"] for row in rows[:2]] == ["5.0", "5.5"] and {row["headline"] for row in rows} == {"utility"}


def test_pairs_are_shown_side_by_side_and_unpaired_examples_alone(tmp_path):
    record = {
        "conversation": "c", "prompt": [{"role": "user", "content": "Which?"}], "ended": True, "feedback": None, "revised": None,
        "satisfied": False, "truth": None, "provenance": None,
    }  # fmt: skip
    records = [
        record | {"id": "a", "reply": "logged a", "label": "dsat"},
        record | {"id": "b", "reply": "logged b", "label": "sat"},
    ]
    reply = {"ended": True, "fresh": False}
    pair = [reply | {"text": "fresh a", "fresh": True, "good": True}, reply | {"text": "logged a", "good": False}]
    other = [reply | {"text": "liked elsewhere", "good": True, "ended": False}, reply | {"text": "logged a", "good": False}]
    examples = [("a", pair), ("a", other), ("b", [reply | {"text": "logged b", "good": True}])]
    (tmp_path / "iteration_1").mkdir()
    write(tmp_path, state("one", 0, 0.1))
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    rows = [{"prompt": record["prompt"], "replies": replies, "feedback": None, "record": name} for name, replies in examples]
    (tmp_path / "iteration_1/examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(item["logged"], item["replies"]) for item in shown_in(tmp_path)] == [
        ([("disliked", "logged a")], [("run", "fresh a", "good", ""), ("run", "liked elsewhere", "good", "logged, cut off")]),
        ([("liked", "logged b")], [("run", "logged b", "good", "logged")]),
    ]


def test_a_metric_missing_at_some_steps_is_an_empty_cell(tmp_path):
    log = CsvFiles(tmp_path)
    log.steps(1, [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6, "kl": 3.0}])
    log.steps(1, [{"step": 3, "loss": 0.5}])
    log.steps(2, [{"step": 1, "loss": 0.4, "entropy": 2.0}])
    expected = [(1, 1, 0.7, None, None), (1, 2, 0.6, 3.0, None), (1, 3, 0.5, None, None), (2, 1, 0.4, None, 2.0)]
    names = ("iteration", "step", "loss", "kl", "entropy")
    assert foreign.Reader().steps(tmp_path) == [
        {name: value for name, value in zip(names, row, strict=True) if value is not None} for row in expected
    ]


def test_a_report_with_a_start_model_alone_does_not_call_its_prompts_too_few(tmp_path):
    ran = state("drift", 0, 0.0, status="running")
    ran.points = ran.points[:1]
    write(tmp_path, ran)
    page = html.run_report(tmp_path).read_text()
    assert "too few prompts" not in page and "<svg" in page


def test_the_start_model_and_the_warm_start_are_told_apart_in_scores_csv(tmp_path):
    log = CsvFiles(tmp_path)
    for iteration, name in ((0, "start"), (0, "warm start"), (1, "iteration 1")):
        log.scores(iteration, name, {"utility": 0.5})
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert rows == ["iteration,policy,utility", "0,start,0.5", "0,warm start,0.5", "1,iteration 1,0.5"]
