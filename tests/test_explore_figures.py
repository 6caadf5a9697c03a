"""Every figure of an exploration, by hand: weights, density, coverage, clusters, distinct-n, self-BLEU, distances, intervals."""

import math
from dataclasses import replace

import numpy as np
import pytest

from drift.exploration import clusters, density, diversity, tables
from drift.exploration.measure import Found, by_prompt, coverages, interval, jackknife
from drift.exploration.placement import centred
from drift.exploration.replies import Pool
from drift.exploration.settings import Exploration
from drift.records import Record
from drift.statistics import Interval


def settings(**changed):
    from conftest import defaults, made

    return made(defaults("exploration.yaml"), **changed)


def record(name):
    return Record(
        id=name, conversation=name, prompt=[{"role": "user", "content": name}], reply="", label="silent", ended=True, feedback=None,
        revised=None, satisfied=False, truth=None, provenance=None,
    )  # fmt: skip


def pool(rows, names=("start", "new"), seeds=("seed=0",)):
    """`rows`: (seed, policy, prompt, text, reward) of each reply."""
    numbers = np.array([row[:3] for row in rows])
    return Pool(
        texts=[row[3] for row in rows], rewards=np.array([row[4] for row in rows], float), seeds=numbers[:, 0],
        policies=numbers[:, 1], prompts=numbers[:, 2], records=[record(f"p{i}") for i in range(numbers[:, 2].max() + 1)],
        seed_names=list(seeds), policy_names=list(names), reward="by hand",
    )  # fmt: skip


def test_rewards_become_weights_by_their_range_or_their_ranks():
    rewards = np.array([-1.0, 3.0, 1.0, 3.0])
    assert density.weights_of(rewards, "range").tolist() == [0, 1, 0.5, 1]
    assert density.weights_of(rewards, "ranks").tolist() == [1 / 8, 3 / 4, 3 / 8, 3 / 4]  # ties share the ranks between them
    assert density.weights_of(np.zeros(3), "range").tolist() == [1, 1, 1]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_density_is_the_sum_of_weighted_gaussians(dimensions):
    places = np.array([[0.0, 0.0, 0.0], [2.0, 1.0, 3.0], [2.0, 0.0, 1.0]])[:, :dimensions]
    axes = density.axes_of(places, 3)
    assert axes[0].tolist() == [0, 1, 2] and axes[1].tolist() == [0, 0.5, 1]
    found = density.densities(places, np.array([2.0, 1.0, 3.0]), np.array([0, 0, 1]), 2, axes, 0.5)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dimensions)
    for g, point in enumerate(points):
        near = [math.exp(-sum((point - place) ** 2) / (2 * 0.25)) for place in places]
        assert found[:, g] == pytest.approx([2 * near[0] + near[1], 3 * near[2]])


def test_the_kernels_width_is_a_share_of_the_maps_standard_deviation():
    places = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [4.0, 2.0]])  # variances 4 and 1
    assert density.width_of(places, 0.1) == pytest.approx(0.1 * math.sqrt(2.5))


def test_coverage_of_a_density_by_hand():
    """Two policies on five points. Pooled: 0, 1, 2, 3, 4; its quantile 0.5 is 2, so the region is the last three points."""
    one, other = [0.0, 2.0, 4.0, 5.0, 0.0], [0.0, 0.0, 0.0, 1.0, 8.0]
    both = np.array([one, other])
    inside, cut = density.region(both, 0.5)
    assert inside.tolist() == [False, False, True, True, True] and cut.tolist() == [2.0]
    assert density.coverage(both, 0.5, 1.0).tolist() == [2 / 3, 1 / 3]  # at least 2: 4 and 5; 8
    assert density.coverage(both, 0.5, 0.5).tolist() == [2 / 3, 2 / 3]  # at least 1: 4 and 5; 1 and 8
    assert density.coverage(np.zeros((2, 5)), 0.5, 1.0).tolist() == [0, 0]


def test_resampled_coverages_are_those_of_the_drawn_prompts():
    by = np.array([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 4.0, 0.0], [0.0, 0.0, 4.0]]])  # (prompts, policies, points)
    of = density.resampled(by, 0.5, 1.0)
    drawn = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    expected = [density.coverage(2 * by[0], 0.5, 1.0), density.coverage(2 * by[1], 0.5, 1.0)]
    assert of(drawn)[1:].tolist() == [row.tolist() for row in expected]
    assert of(drawn)[0].tolist() == [0.5, 0.5]  # pooled 0.5, 2, 2.5: the region is the last two, the quantile 2


def test_good_replies_and_high_reward_clusters_by_hand():
    near, weights = np.array([0, 0, 1, 1, 2, 2]), np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])  # mean 0.5
    high = clusters.high_reward(near, weights)
    assert high.tolist() == [True, True, False]
    policies, prompts = np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 1, 1])
    counts = clusters.good_counts(near, clusters.good_of(weights), policies, prompts, (2, 2, 3))
    assert counts.tolist() == [[[1, 0, 0], [1, 0, 0]], [[0, 1, 0], [0, 0, 0]]]  # prompt, policy, cluster
    assert clusters.reached(counts, high, 1)(np.array([[1.0, 1.0], [2.0, 0.0]])).tolist() == [[2, 1], [1, 1]]
    assert clusters.reached(counts, high, 2)(np.array([[1.0, 1.0], [2.0, 0.0]])).tolist() == [[0, 0], [1, 1]]


def test_k_means_finds_two_far_groups():
    pytest.importorskip("sklearn")
    vectors = np.array([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0]])
    found = clusters.clusters_of(vectors, 2, 0)
    assert found[0] == found[1] != found[2] == found[3]
    assert len(set(clusters.clusters_of(np.ones((4, 2)), 3, 0))) == 1  # no more clusters than different embeddings


def test_distinct_n_by_hand():
    texts = ["The cat sat.", "the cat ran"]  # pairs: the cat, cat sat, the cat, cat ran
    assert diversity.distinct(texts, 1) == 4 / 6
    assert diversity.distinct(texts, 2) == 3 / 4
    assert diversity.distinct(texts, 3) == 1
    assert diversity.distinct(["", "one"], 2) == 0


def test_self_bleu_of_two_sentences_by_hand():
    """Both have 6 words, so no brevity penalty. Matching n-grams: 5 of 6, 4 of 5, 3 of 4, 2 of 3."""
    pytest.importorskip("nltk")
    texts = ["a cat sat on the mat", "a cat sat on the hat"]
    assert diversity.self_bleu(texts) == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    assert diversity.self_bleu(["one two three four five"] * 3) == pytest.approx(1)
    assert diversity.self_bleu(["", "one two three four"]) == 0


def test_self_bleu_penalises_brevity_and_smooths_missing_n_grams():
    """Four words against five: exp(1 - 5/4) * 1; the other way 4/5 * 3/4 * 2/3 * 1/2."""
    pytest.importorskip("nltk")
    short, long = math.exp(1 - 5 / 4), (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert diversity.self_bleu(["a b c d", "a b c d e"]) == pytest.approx((short + long) / 2)
    assert diversity.self_bleu(["a b c x", "a b c y"]) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25)


def test_the_mean_distance_of_pairs_by_hand():
    """Cosines 0, 0.6 and 0.8."""
    assert diversity.distance(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])) == pytest.approx(1 - (0 + 0.6 + 0.8) / 3)


def test_centring_subtracts_the_mean_of_each_prompts_replies():
    vectors = np.array([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
    assert centred(vectors, np.array([0, 0, 1]), "prompt").tolist() == [[-1, -1], [1, 1], [0, 0]]
    assert centred(vectors, np.array([0, 0, 1]), "none") is vectors


def test_what_each_prompt_adds_sums_to_the_density_of_its_seed():
    rng = np.random.default_rng(0)
    rows = [(s, m, 2 * s + p, "x", rng.random()) for s in (0, 1) for p in (0, 1) for m in (0, 1) for _ in range(3)]
    some, places = pool(rows, seeds=("seed=0", "seed=1")), rng.normal(size=(24, 2))
    chosen = settings(grid=5)
    weights = density.weights_of(some.rewards, "range")
    parts = by_prompt(some, chosen, places, weights)
    axes, width = density.axes_of(places, 5), density.width_of(places, chosen.bandwidth)
    for seed, part in enumerate(parts):
        assert part.shape == (2, 2, 25)
        mine = some.seeds == seed
        whole = density.densities(places[mine], weights[mine], some.policies[mine], 2, axes, width)
        assert part.sum(axis=0) == pytest.approx(whole)
    means = coverages(some, chosen, places)
    by_hand = [density.coverage(part.sum(axis=0), chosen.quantile, chosen.threshold) for part in parts]
    assert list(means.values()) == pytest.approx(((by_hand[0] + by_hand[1]) / 2).tolist())


def test_an_interval_is_over_prompts_with_one_seed_and_over_seeds_with_two():
    rows = [(0, 0, p, "x", 1.0) for p in range(8)]
    values = np.arange(8.0)
    one = interval(pool(rows), [lambda drawn: drawn @ values / drawn.sum(axis=1)])
    half = 2.3646 * math.sqrt(6 / 8)  # of a mean it is the usual t interval, with the variance 42 / 7 of the values
    assert one.mean == 3.5 and one.over == "8 prompts" and (one.low, one.high) == pytest.approx((3.5 - half, 3.5 + half), abs=1e-3)
    two = pool([(p // 4, 0, p, "x", 1.0) for p in range(8)], seeds=("seed=0", "seed=1"))
    both = interval(two, [lambda drawn: drawn.sum(axis=1), lambda drawn: drawn.sum(axis=1) + 2])  # 4 and 6
    assert (both.mean, both.over) == (5, "2 seeds") and both.high == pytest.approx(5 + 12.7062, abs=1e-3)  # t of one degree


def test_the_jackknife_of_a_count_by_hand():
    """Of eight prompts, two are the only ones with their cluster: without one of them the count is 1 lower. The sum of squares
    around the mean 1.75 is 2 * 0.75^2 + 6 * 0.25^2 = 1.5; times 7/8, the root is 1.1456; t of 7 degrees is 2.3646."""
    found = jackknife(lambda drawn: (drawn[:, :2] > 0).sum(axis=1), [str(i) for i in range(8)])
    assert (found.mean, found.over) == (2, "8 prompts") and found.mean - found.low == pytest.approx(2.3646 * 1.1456, abs=1e-3)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)
    assert jackknife(lambda drawn: drawn.sum(axis=1), list("aabbcc")).low is None  # three conversations are too few


def test_tables_say_which_policy_is_highest_and_how_often():
    rows = [({"bandwidth": 0.1, "quantile": 0.8, "threshold": 1.0}, {"a": 0.5, "b": 0.4}), ({"grid": 9}, {"a": 0.3, "b": 0.3})]
    empty = Interval(mean=0.0, low=None, high=None, over="")
    found = Found(
        places=np.zeros((1, 2)), clusters=np.zeros(1, int), high=np.ones(1, bool), weights=np.ones(1), coverage={"a": empty},
        gaps=[], by_seed={}, reached={"a": empty}, replies={}, sensitivity=rows,
    )  # fmt: skip
    crossed, alone = tables.sensitivity(found)
    assert crossed == [{"bandwidth": "0.1", "quantile": "0.8", "threshold": "1", "a": "0.500", "b": "0.400", "highest": "a"}]
    assert alone == [{"setting": "grid=9", "a": "0.300", "b": "0.300", "highest": "a, b"}]
    assert tables.robustness(found) == "Highest coverage with other settings, of 2 variants: a in 1; a, b in 1."
    gaps = [("b", "a", Interval(mean=0.1, low=-0.1, high=0.3, over="")), ("c", "a", Interval(mean=0.2, low=0.1, high=0.3, over=""))]
    said = [tables.verdict(replace(found, gaps=some)) for some in ([("b", "a", empty)], gaps[:1], gaps)]
    assert said[0].startswith("Coverage: too few prompts") and said[1].endswith(
        "of 1 differences between policies, the interval of none leaves out 0."
    )
    assert said[2].endswith("of 2 differences between policies, the intervals of 1 leave out 0: c - a +0.200 [+0.100, +0.300].")


def test_variants_combine_three_settings_and_change_the_others_one_at_a_time():
    chosen = settings(sensitivity={"bandwidth": [1.0, 2.0], "threshold": [3.0], "grid": [7], "seed": [8, 9]})
    assert isinstance(chosen, Exploration)
    assert [changed for changed, _ in chosen.crossed()] == [
        {"bandwidth": width, "quantile": chosen.quantile, "threshold": 3.0} for width in (1.0, 2.0)
    ]
    assert [changed for changed, _ in chosen.alone()] == [{"grid": 7}, {"seed": 8}, {"seed": 9}]
    assert all(vars(other)[name] == value for changed, other in chosen.alone() for name, value in changed.items())
