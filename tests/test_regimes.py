"""The study of regimes: its rule for the number of seeds, its choice of configurations, and its paired differences, by hand."""

import re
import sys

import pytest
from conftest import ROOT, compose
from scipy.stats import nct, t

from drift.records import Record, read_jsonl
from drift.report.recommend import ROWS, recommended
from drift.signal.measure import common

FOLDER = ROOT / "experiments" / "regimes"
sys.path.insert(0, str(FOLDER))

import figures  # noqa: E402
import prediction  # noqa: E402
import settings  # noqa: E402
import tables  # noqa: E402


def row(phase, arm, seed, gain, config=()):
    points = {"start": {"utility": 0.5}, "iteration 1": {"utility": 0.5 + gain}}
    return {"phase": phase, "arm": arm, "seed": seed, "config": list(config), "points": points}


def test_seeds_for_a_power_of_four_fifths():
    """By the noncentral t distribution, 15 pairs are the least at an effect of .1 / .127."""
    assert figures.seeds_for(0.10, 0.127, alpha=0.05, most=50) == 15
    for count, enough in ((14, False), (15, True)):
        limit, shift = t.ppf(0.975, count - 1), 0.1 / 0.127 * count**0.5
        assert (nct.sf(limit, count - 1, shift) + nct.cdf(-limit, count - 1, shift) >= 0.8) == enough
    assert figures.seeds_for(0.10, 0.127, alpha=0.05 / 3, most=50) == 20
    assert figures.seeds_for(0.01, 1.0, alpha=0.05, most=20) == 20


def test_the_number_of_seeds_is_decided_after_eight_by_the_largest_spread():
    """DRIFT's gain is 0; a rival's alternates between +d and -d, so over eight seeds the SD of the difference is d * (8/7)^.5."""

    def runs(spreads, seeds):
        made = [row("R1", settings.PRIMARY, seed, 0.0) for seed in seeds]
        return made + [
            row("R1", rival, seed, d * (-1) ** seed) for rival, d in zip(settings.RIVALS, spreads, strict=True) for seed in seeds
        ]

    eight = settings.TEST_SEEDS[:8]
    assert figures.wanted(runs((0.01, 0.02, 0.3), eight[:7])) == 8, "seven decide nothing"
    assert figures.wanted(runs((0.01, 0.02, 0.03), eight)) == 8
    wide = 0.1 * (8 / 7) ** 0.5
    assert figures.wanted(runs((0.01, 0.1, 0.02), eight)) == figures.seeds_for(0.08, wide, alpha=0.05 / 3, most=20) > 8
    more = runs((0.01, 0.1, 0.02), eight) + runs((0.9, 0.9, 0.9), settings.TEST_SEEDS[8:10])
    assert figures.wanted(more) == figures.wanted(runs((0.01, 0.1, 0.02), eight)), "later seeds change nothing"


def test_differences_are_paired_by_seed():
    known = [row("R1", "DRIFT", 1, 0.3), row("R1", "SFT", 1, 0.1), row("R1", "DRIFT", 2, 0.2), row("R0", "SFT", 2, 0.1)]
    assert figures.gaps(known, "R1", "DRIFT", "SFT", [1, 2]) == pytest.approx([0.2])


def test_the_better_two_configurations_run_again_and_the_better_mean_is_taken():
    one, two, three, four = settings.CHOICES["SFT"]
    first, second = settings.TUNE_SEEDS
    known = [row("tune", "SFT", first, gain, config) for config, gain in ((one, 0.1), (two, 0.3), (three, 0.3), (four, 0.2))]
    assert figures.finalists(known[:3], "SFT") == [], "a run is missing"
    assert figures.finalists(known, "SFT") == [two, three], "the first of equals first"
    assert figures.choose(known, "SFT") is None
    known += [row("tune", "SFT", second, gain, config) for config, gain in ((two, 0.1), (four, 0.9))]
    assert figures.choose(known, "SFT") is None, "a finalist's second run is missing; a loser's does not count"
    assert figures.choose([*known, row("tune", "SFT", second, 0.2, three)], "SFT") == three
    assert figures.choose([*known, row("tune", "SFT", second, 0.1, three)], "SFT") == two, "the first of equals"


def test_all_arms_have_as_many_configurations():
    assert {len(configs) for configs in settings.CHOICES.values()} == {4} and settings.CHOICES.keys() == settings.ARMS.keys()


def test_the_recommendations_have_the_gains_of_the_kept_runs_and_stand_in_the_readme():
    known = read_jsonl(FOLDER / "runs.jsonl")
    sources = (
        ("R1", ("DRIFT", "length-matched random")), ("R1", ("SFT", "DRIFT", "SPIN")), ("R2", ("SPIN", "DRIFT", "SFT")),
        ("R0", ("SFT", "SPIN", "DRIFT")),
    )  # fmt: skip
    for row, (regime, arms) in zip(ROWS, sources, strict=True):
        gains = [tables.interval(list(figures.gains(known, regime, arm).values())) for arm in arms]
        assert re.findall(r"[+-]0\.\d+ \[.*?\]", row.because) == gains
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("+.", "+0.")
    for row in ROWS:
        assert f"| {row.log} | `{row.use}` | {row.because} |".replace(" or method=", "` or `method=") in readme
    told = {
        "R1": ("DRIFT x 3", "IterDPO", "KTO", "SDPO"),
        "R3": ("SFT", "DRIFT"),
        "R4": ("DRIFT", "SFT"),
        "R5": ("DRIFT", "SPIN", "SFT"),
    }
    for regime, arms in told.items():
        for arm in arms:
            assert tables.interval(list(figures.gains(known, regime, arm).values())) in readme.replace("-.", "-0."), (regime, arm)


@pytest.mark.parametrize(("sat", "dsat", "use"), [
    (0, 10, "method=drift,"), (2, 100, "method=drift,"), (3, 100, "method=sft or method=drift"),
    (30, 100, "method=sft or method=drift"), (31, 100, "method=drift or method=spin"),
    (76, 100, "method=sft or method=spin"), (5, 0, "method=sft and method=spin"),
    (19, 2000, "method=drift,"), (20, 2000, "method=sft or method=drift"), (0, 0, "no thanks either"),
])  # fmt: skip
def test_a_log_gets_the_row_of_its_thanks_for_each_complaint(sat, dsat, use):
    labels = ["sat"] * sat + ["dsat"] * dsat + ["silent"] * 50
    records = [
        Record(
            id="r", conversation="c", prompt=[{"role": "user", "content": "Hi"}], reply="x", label=label, ended=True, feedback=None,
            revised=None, satisfied=False, truth=None, provenance=None,
        )
        for label in labels
    ]  # fmt: skip
    assert use in recommended(records)


@pytest.mark.parametrize(
    ("utilities", "perplexity", "holds"),
    [
        ((0.5, 0.7, 0.66), 6.0, True),
        ((0.5, 0.7, 0.64), 3.0, False),
        ((0.5, 0.52, 0.49), 3.0, False),
        ((0.5, 0.7, 0.9), 6.1, False),
    ],
    ids=["a little lower", "lower", "below the start", "ruined text"],
)
def test_what_holds_from_an_old_log(utilities, perplexity, holds):
    names = ("start", "iteration 1", "iteration 5")
    points = {name: {"utility": value, figures.PERPLEXITY: 3.0} for name, value in zip(names, utilities, strict=True)}
    points["iteration 5"][figures.PERPLEXITY] = perplexity
    first, second, third = settings.OLD_SEEDS
    run = {"phase": "old", "arm": "some", "seed": first, "points": points}
    assert figures.held(run) == holds
    assert figures.still_held([], "some", first), "the first seed has none before it"
    assert figures.still_held([run], "some", second) == holds
    assert not figures.still_held([run], "some", third), "a run is missing"


def test_the_page_has_the_utilities_of_the_kept_runs_from_an_old_log():
    page = (FOLDER / "README.md").read_text()
    rows = [row for row in read_jsonl(FOLDER / "runs.jsonl") if row["phase"] == "old"]
    for row in rows:
        utilities = " | ".join(f"{point['utility']:.2f}".lstrip("0") for point in row["points"].values())
        assert re.search(
            rf"(?m)^\|.*\| {row['seed']} \| {re.escape(utilities)} \|.*\| {'yes' if figures.held(row) else 'no'} \|$", page
        )
    in_all = [arm for arm in settings.OLD if sum(row["arm"] == arm and figures.held(row) for row in rows) == 3]
    assert in_all == [settings.OLD_AS_IT_IS], "experiment=fixed-log is this one"
    assert figures.choose(read_jsonl(FOLDER / "runs.jsonl"), "DRIFT") == ["train.learning_rate=0.0008", "objective.nll.weight=0.4"]
    config = compose("experiment=fixed-log")
    assert (config.train.learning_rate, config.objective.nll.weight, config.refresh_log) == (8e-4, 0.4, False)


def test_the_prediction_is_the_correlation_of_ranks():
    """Of 1..6 against 1, 2, 3, 4, 6, 5: one pair of neighbours is swapped, so 1 - 6 * 2 / (6 * 35) = 33 / 35."""
    cells = [(1.0, 0.1), (2.0, 0.2), (30.0, 0.3), (40.0, 0.4), (50.0, 0.6), (60.0, 0.5)]
    found = figures.prediction(cells)
    assert found.mean == pytest.approx(33 / 35)
    assert found.low is not None and found.high is not None and -1 <= found.low < found.mean <= found.high <= 1
    assert figures.prediction(cells[:4]).low is None, "four cells allow no interval"
    perfect = figures.prediction([(float(i), -float(i)) for i in range(7)])
    assert (perfect.mean, perfect.low, perfect.high) == (-1.0, None, None), "and so do cells that all agree"


def test_the_correlations_of_the_page_are_those_of_the_kept_signals(capsys):
    prediction.show(read_jsonl(FOLDER / "runs.jsonl"), read_jsonl(prediction.SIGNALS))
    printed = capsys.readouterr().out
    shown = re.findall(r"all regimes: (\S+ \[.*?\])", printed)
    page = re.sub(r"([+-])\.", r"\g<1>0.", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert len(shown) == 2 and all(one in page for one in shown)
    [logs] = re.findall(r"seeds' logs: (\S+ \[.*?\])", printed)
    [(off, deviation)] = re.findall(r"standard errors: mean (\S+), SD (\S+) ", printed)
    assert logs in page and f"mean {off}), but scatters twice as much as that error says (SD {deviation})" in page
    guide = re.sub(r"([+-])\.", r"\g<1>0.", (ROOT / "docs/signal.md").read_text(encoding="utf-8"))
    assert shown[0] in guide and logs in guide


def test_two_logs_by_hand(capsys):
    """Ratios 1, 2, 3 and 2, 1, 3: one swap of neighbours, so 1 - 6 * 2 / (3 * 8) = .5. Signals off by 1 and -1 errors."""
    arms, seeds = ("DRIFT", "SFT", "SPIN"), prediction.SEEDS
    signals = [
        {"phase": "R1", "seed": seed, "arms": {arm: ratio | {"signal": 3.0 + 2 * sign, "predicted": 3.0, "signal_error": 2.0}
         for arm, ratio in zip(arms, ({"snr": one} for one in ratios), strict=True)}}
        for seed, ratios, sign in zip(seeds, ((1.0, 2.0, 3.0), (2.0, 1.0, 3.0)), (1, -1), strict=True)
    ]  # fmt: skip
    prediction.two_logs(signals)
    printed = capsys.readouterr().out
    assert "two seeds' logs: +0.50 (3 cells)" in printed
    assert "mean +0.0, SD 1.1 (6 measurements)" in printed, "(6 / 5) ** .5"


def test_the_signal_of_all_arms_is_measured_on_one_log_with_one_adapter(tmp_path):
    known = read_jsonl(FOLDER / "runs.jsonl")
    arms = {arm: figures.choose(known, arm) for arm in settings.ARMS}
    runs = prediction.runs_of(tmp_path, "R1", 1200, arms, tmp_path)
    first = common(runs["DRIFT"])
    assert all(common(run) == first for run in runs.values()) and list(runs) == list(settings.ARMS)
    assert runs["DRIFT"].data.praise_rate == 0.125 and runs["DRIFT x 3"].method.num_samples == 3
    assert runs["KTO"].train.learning_rate == 2e-4, "an arm has its own configuration"
