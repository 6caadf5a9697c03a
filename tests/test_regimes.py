"""The study of regimes: its rule for the number of seeds, its choice of configurations, and its paired differences, by hand."""

import sys

import pytest
from conftest import ROOT
from scipy.stats import nct, t

sys.path.insert(0, str(ROOT / "experiments" / "regimes"))

import figures  # noqa: E402
import settings  # noqa: E402


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


def test_every_arm_gets_the_configuration_with_the_best_mean_gain():
    known = [
        row("tune", arm, seed, {0: 0.1, 1: 0.3, 2: 0.3, 3: -0.1}[i] + (0.1 if seed % 2 else -0.1), config)
        for arm in settings.ARMS
        for i, config in enumerate(settings.CHOICES[arm])
        for seed in settings.TUNE_SEEDS
    ]
    assert figures.choose(known) == {arm: settings.CHOICES[arm][1] for arm in settings.ARMS}, "the first of equals"
    assert figures.choose(known[:-1]) is None


def test_all_arms_have_as_many_configurations():
    assert {len(configs) for configs in settings.CHOICES.values()} == {4} and settings.CHOICES.keys() == settings.ARMS.keys()
