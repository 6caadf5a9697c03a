"""Statistics against hand-made and library numbers; reports are built from what is on disk and escape what is in the data."""

import json

import numpy as np
import pytest
from scipy import stats

from drift.report import html, tables
from drift.report.statistics import level, over_items, over_seeds, paired


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


def study(folder, states):
    for i, member in enumerate(states):
        (folder / str(i)).mkdir()
        (folder / str(i) / "run.json").write_text(json.dumps(member))
    return html.study_report(folder).read_text()


def test_a_study_says_who_is_ahead_or_that_they_are_not_separable(tmp_path):
    gains = {"one": (0.2, 0.21, 0.2), "two": (0.1, 0.11, 0.1), "three": (0.0, 0.4, 0.2)}
    states = [state(method, seed, gain) for method, row in gains.items() for seed, gain in enumerate(row)]
    found = {row["comparison"]: row["verdict"] for row in tables.comparisons(tables.groups(states))}
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
    assert "no trained policy has been evaluated yet" in text and "running" in text
    assert "three failed: UserError: &lt;b&gt;no&lt;/b&gt;" in text


def test_text_of_a_data_set_is_escaped(tmp_path):
    attack = "<script>alert(1)</script>"
    folder = tmp_path / "run"
    (folder / "iteration_1").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(state("one", 0, 0.1)))
    row = {"prompt": [{"role": "user", "content": attack}], "chosen": attack, "rejected": attack, "feedback": attack}
    (folder / "iteration_1" / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    text = html.run_report(folder).read_text()
    assert attack not in text and text.count("&lt;script&gt;") == 4
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
