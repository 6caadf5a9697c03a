"""Intervals of evaluations that are larger than memory holds of their resamples."""

import resource

import numpy as np
import pytest

from drift import statistics


def test_a_large_evaluation_needs_bounded_memory_and_its_interval_covers_all_prompts(monkeypatch):
    """Of 20 times as many prompts as blocks: the interval is the normal one's, 1.96 standard errors to either side."""
    monkeypatch.setattr(statistics, "MAX_BLOCKS", 500)
    values = np.random.default_rng(0).exponential(1.0, 10_000)
    now = {str(i): float(value) for i, value in enumerate(values)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = statistics.level([now]), statistics.paired([now], [dict.fromkeys(now, 1.0)])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB; all at once would be 800 MB, twice
    half = 1.96 * values.std(ddof=1) / 100
    for interval, mean in zip(found, (values.mean(), values.mean() - 1), strict=True):
        assert interval.mean == pytest.approx(mean) and interval.over == "10000 prompts"
        assert interval.high is not None and interval.low is not None
        assert interval.high - interval.low == pytest.approx(2 * half, rel=0.08)


@pytest.mark.parametrize("values", [[0.0] * 12, [0.0, 1.0] * 6])
def test_where_no_conversation_differs_there_is_no_interval(values):
    """Six conversations with two prompts each. The bootstrap would give an interval of no width, or (the second) NaN."""
    conversations = {str(i): str(i // 2) for i in range(12)}
    found = statistics.level([{str(i): value for i, value in enumerate(values)}], conversations)
    assert (found.mean, found.low, found.high) == (sum(values) / 12, None, None)
    assert statistics.over_items(values).low == (None if not any(values) else pytest.approx(0.25, abs=0.1))


def test_seeds_that_are_all_the_same_have_no_interval():
    """An interval of no width would say "for certain"."""
    found = statistics.over_seeds([0.3, 0.3, 0.3])
    assert (found.mean, found.low, found.high) == (pytest.approx(0.3), None, None)
