"""`drift signal`: every number against one that is derived by hand, from gradients of two numbers."""

import math

import numpy as np
import pytest
import torch
from conftest import compose
from hydra.utils import instantiate

from drift.errors import UserError
from drift.records import Labelled
from drift.score.plan import TokenisedExample
from drift.score.sequence import TokenSequence
from drift.signal import figures
from drift.signal.gradients import batches, buckets
from drift.signal.truth import expected_share, truth
from drift.signal.weights import reply_weights, sides


def test_good_over_bad_is_taken_prompt_by_prompt_with_the_weight_of_its_variance():
    """Prompt 1: (4, 0) over the mean (1, 0) of two: (3, 0) with weight 1 * 2 / 3. Prompt 2: (0, 4) over (0, 0): (0, 4) with weight
    1 * 1 / 2; its third reply is neither. Prompt 3 has good ones only. (2/3 * (3, 0) + 1/2 * (0, 4)) / (7/6) = (12/7, 12/7)."""
    vectors = np.array([[[4, 0], [0, 0], [2, 0]], [[0, 4], [0, 0], [9, 9]], [[7, 7], [7, 7], [7, 7]]], dtype=float)
    labels = np.array([[1, 0, 0], [1, 0, np.nan], [1, 1, 1]])
    assert figures.contrast(vectors, labels) == pytest.approx([12 / 7, 12 / 7])
    assert figures.contrast(vectors[2:], labels[2:]) is None


def test_shorter_replies_are_those_below_the_median_of_their_prompt():
    fresh = figures.Fresh(vectors=np.zeros((2, 3, 1)), lengths=np.array([[5, 9, 7], [4, 4, 6]]), good=None)
    assert np.array_equal(fresh.shorter, [[1, 0, np.nan], [np.nan, np.nan, 0]], equal_nan=True)


def test_noise_agreement_and_cosine_of_four_gradients_of_three_records():
    """(1, 0) twice of record a, (0, 1) of b, (0, -1) of c. Mean (1/2, 0). Squared distances 1/4, 1/4, 5/4, 5/4: their sum over 3 is
    1. Sums by record (2, 0), (0, 1), (0, -1): unrelated records would give sqrt(4 + 1 + 1) / 4 = .612. Ten ordered pairs of
    different records, of which a and b, a and c are orthogonal, and b and c opposite (twice): -2 / 10. Error of the mean: (1, 0),
    (-1/2, 1), (-1/2, -1) are off, sqrt(3 / 2 * (1 + 5/4 + 5/4)) / 4."""
    found = figures.moments(np.array([[1, 0], [1, 0], [0, 1], [0, -1]], dtype=float), ["a", "a", "b", "c"])
    assert found == pytest.approx({
        "noise": 1.0, "mean_norm": 0.5, "chance_norm": math.sqrt(6) / 4, "agreement": 2 / math.sqrt(6), "cosine": -0.2,
        "mean_noise": math.sqrt(5.25) / 4,
    })  # fmt: skip


def test_one_example_has_no_noise_and_one_record_no_cosine():
    found = figures.moments(np.array([[3.0, 4.0]]), ["a"])
    assert (found["noise"], found["cosine"], found["mean_noise"], found["mean_norm"], found["agreement"]) == (
        None,
        None,
        None,
        5,
        1,
    )
    assert figures.moments(np.zeros((2, 2)), ["a", "b"])["agreement"] is None


ALIKE = figures.Fresh(  # four prompts, each with a good reply of three tokens and a bad one of one
    vectors=np.array([[[2.0, 3.0], [-2.0, 1.0]]] * 4), lengths=np.array([[3, 1]] * 4), good=np.array([[1.0, 0.0]] * 4)
)


def gradients(vectors, lengths, prompts, records="abcdef"):
    return figures.Examples(
        vectors=np.array(vectors, dtype=float), lengths=np.array(lengths, dtype=float), records=list(records)[: len(vectors)],
        prompts=np.array(prompts),
    )  # fmt: skip


def test_signal_and_length_alignment_are_those_of_the_mean_without_what_all_replies_share():
    """A token's mean gradient is (0, 4) / 4 = (0, 1), so good replies are (2, 0) and bad ones (-2, 0): good over bad is (4, 0), of
    length 4, and shorter over longer its opposite. The examples' net tokens are 2 and 0: (1, 5) becomes (1, 3), (3, 1) stays. Along
    (1, 0) they are 1 and 3: mean 2, standard error sqrt(2 / 1 * (1 + 1)) / 2 = 1. The mean is (2, 2)."""
    splits = figures.halves(ALIKE, 5)
    assert (figures.length(splits, "good"), figures.length(splits, "shorter")) == pytest.approx((4.0, 4.0))
    assert figures.alignment(splits) == pytest.approx(-1.0)
    two = gradients([[1, 5], [3, 1]], [2, 0], [-1, -1])
    found = figures.along(two, splits, "good")
    assert found == pytest.approx({"part": 2.0, "error": 1.0, "deviation": 0.0, "cosine": 1 / math.sqrt(2)})
    found = figures.along(two, splits, "shorter")
    assert found == pytest.approx({"part": -2.0, "error": 1.0, "deviation": 0.0, "cosine": -1 / math.sqrt(2)})


def test_no_example_is_compared_with_a_direction_from_its_own_prompt():
    """The first example's prompt is in the first half, which says (1, 3), so only the second counts, which says (1, 0): 5. The
    other example is compared with both: 14 and 2. The halves' inner product is 1, and so the direction's length."""
    inside = np.array([True, False])
    one = figures.Half(inside=inside, outer=np.zeros(2), directions={"good": np.array([1.0, 3.0])})
    other = figures.Half(inside=~inside, outer=np.zeros(2), directions={"good": np.array([1.0, 0.0])})
    found = figures.along(gradients([[5, 100], [2, 4]], [0, 0], [0, -1]), [(one, other)] * 2, "good")
    assert found["part"] == pytest.approx((5 + (14 + 2) / 2) / 2)
    assert found["cosine"] == pytest.approx((14 / math.sqrt(20 * 10) + 3.5 / math.hypot(3.5, 52)) / 2)


def test_a_direction_without_its_noise_is_as_long_as_the_halves_agree():
    """Inner products 1 * 9 and 2 * 8 over two splits: sqrt(12.5). Where they are negative, there is no direction."""
    half = lambda x: figures.Half(inside=np.array([True]), outer=np.zeros(1), directions={"good": np.array([x])})  # noqa: E731
    splits = [(half(1.0), half(9.0)), (half(2.0), half(8.0))]
    assert figures.inner(splits, "good", "good") == [9.0, 16.0]
    assert figures.length(splits, "good") == pytest.approx(math.sqrt(12.5))
    assert figures.length([(half(1.0), half(-9.0))], "good") is None and figures.length(splits, "shorter") is None
    nothing = figures.along(gradients([[1]], [0], [-1]), [(half(1.0), half(-1.0))] * 2, "good")
    assert nothing == {"part": None, "error": None, "deviation": None, "cosine": None}


def test_the_deviation_is_over_splits_and_the_error_over_records():
    """Directions 1 and 3 from two splits, both of length sqrt((1 * 1 + 3 * 3) / 2) = sqrt(5): an example of 1 has 1 and 3 over it.
    Records a, a, b: 2 * (1, 1, 4) on average, mean 4; a's two are off by -2 each, b by 4: sqrt(2 * (16 + 16)) / 3."""
    half = lambda x: figures.Half(inside=np.array([True]), outer=np.zeros(1), directions={"good": np.array([x])})  # noqa: E731
    found = figures.along(gradients([[1], [1], [4]], [0] * 3, [-1] * 3, "aab"), [(half(1.0),) * 2, (half(3.0),) * 2], "good")
    size = math.sqrt(5)
    assert found["part"] == pytest.approx(4 / size) and found["error"] == pytest.approx(8 / 3 / size)
    assert found["deviation"] == pytest.approx(math.sqrt(2) * 2 / size), "2 and 6 over the splits"


def test_halves_are_disjoint_complete_and_differ_from_split_to_split():
    splits = figures.halves(ALIKE, 6)
    assert all(one.inside.sum() == 2 and not (one.inside & other.inside).any() for one, other in splits)
    assert len({tuple(one.inside) for one, _ in splits}) > 1


def test_without_truth_there_is_a_length_alignment_and_no_signal():
    blind = figures.Fresh(vectors=ALIKE.vectors, lengths=ALIKE.lengths, good=None)
    splits, one = figures.halves(blind, 2), gradients([[1, 0]], [0], [-1])
    assert figures.along(one, splits, "good")["part"] is None and figures.alignment(splits) is None
    assert figures.along(one, splits, "shorter")["part"] == pytest.approx(-1.0)


KNOWN = truth([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]], {"dsat": [0, 0, 0, 0, 1], "sat": [1, 1, 1, 0], "silent": [1, 0, 1]})
CLEAN = truth([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]], {"dsat": [0], "sat": [1, 1]})


def test_p_a_and_b_of_twelve_fresh_replies():
    """8 of 12 are good. By 2, 3, 2, 1 of 3, E[p (1 - p)] is (2/6 + 0 + 2/6 + 2/6) / 4 = 1/4; a = 1/4 / (1/3), b = 1/4 / (2/3)."""
    assert (KNOWN.p, KNOWN.spread, KNOWN.a, KNOWN.b) == pytest.approx((2 / 3, 1 / 4, 3 / 4, 3 / 8))
    assert KNOWN.logged == {"dsat": 0.2, "sat": 0.75, "silent": pytest.approx(2 / 3)}
    assert KNOWN.fresh("silent") == pytest.approx(2 / 3), "prompts chosen at random"
    assert truth([[1, 1]], {}).a is None and truth([[0, 0]], {}).b is None


def side(*, fresh):
    return Labelled(text="", ended=True, fresh=fresh, good=True)


def expected(known, weights, kinds, labels, verdicts=None):
    replies = [[side(fresh=fresh) for fresh in row] for row in kinds]
    return expected_share(known, weights, replies, labels, verdicts)


def test_theory_gives_each_method_its_formula():
    """a = 3/4, b = 3/8; the log's complaints are wrong in 1 of 5 cases, its praise in 1 of 4."""
    a, b, wrong, false = 0.75, 0.375, 0.2, 0.25
    drift = expected(KNOWN, [[1, -1]], [[True, False]], ["dsat"])
    spin = expected(KNOWN, [[1, -1]], [[False, True]], ["sat"])
    liked = expected(KNOWN, [[1]], [[False]], ["sat"])
    assert drift == pytest.approx(a * (1 - wrong) - b * wrong)
    assert spin == liked == pytest.approx(b * (1 - false) - a * false)
    assert expected(CLEAN, [[1, -1]], [[True, False]], ["dsat"]) == pytest.approx(a)
    three = expected(CLEAN, [[1 / 3, 1 / 3, 1 / 3, -1]], [[True, True, True, False]], ["dsat"])
    assert three == pytest.approx(a), "more samples are less noise, not more signal"


def test_theory_gives_a_random_logged_reply_nothing_and_a_judged_pair_its_verdicts():
    """Two liked and one disliked of three, which is the policy's own p of 2/3: (2 * (-3/8) + 3/4) / 3 = 0. A judge's pairs: one of
    a good and a bad reply, one with two good ones: 1/2."""
    assert expected(CLEAN, [[1, -1]] * 3, [[True, False]] * 3, ["sat", "sat", "dsat"]) == pytest.approx(0.0)
    assert expected(CLEAN, [[1, -1]] * 2, [[True, True]] * 2, ["dsat"] * 2, [[1, 0], [1, 1]]) == pytest.approx(0.5)
    assert expected(truth([[1, 1]], {"dsat": [0]}), [[1, -1]], [[True, False]], ["dsat"]) is None


def tokenised(*lengths, good):
    return TokenisedExample(sequences=[TokenSequence(prompt=[1], reply=[2] * n) for n in lengths], good=list(good))


def objectives(names):
    config = compose("method=unpaired", f"objective=[{names}]")
    return {name: instantiate(config.objective[name]) for name in config.objective}


@pytest.mark.parametrize(("names", "examples", "weights"), [
    ("dpo,nll", [tokenised(2, 4, good=[True, False]), tokenised(3, 3, good=[False, True])], [[1, -1], [-1, 1]]),
    ("dpo", [tokenised(2, 4, 3, good=[True, True, False])], [[0.5, 0.5, -1]]),
    ("dpo_norm", [tokenised(2, 4, good=[True, False])], [[1, -0.5]]),  # per token: 1/2 to 1/4
    ("nll", [tokenised(2, good=[True]), tokenised(4, good=[True])], [[1], [1]]),
    ("kto", [tokenised(2, good=[True]), tokenised(4, good=[False])], [[1], [-1]]),
])  # fmt: skip
def test_an_objective_weighs_the_replies_of_an_example_by_its_derivative(names, examples, weights):
    found = reply_weights(objectives(names), examples)
    assert [pytest.approx(row) for row in weights] == found


def test_an_objective_that_learns_nothing_from_the_examples_says_so():
    with pytest.raises(UserError, match=r"objective=\[nll\] has no gradient at the start"):
        reply_weights(objectives("nll"), [tokenised(2, good=[False])])


def test_an_objective_of_single_tokens_is_not_measured():
    with pytest.raises(UserError, match="objective=sdpo weighs every token of a reply by itself"):
        reply_weights(objectives("sdpo"), [tokenised(2, good=[False])])


def test_shares_on_either_side_are_weighted():
    assert sides([[0.5, 0.5, -1.0], [1.0, -1.0]], [[1, 0, 1], [1, 0]]) == (0.75, 0.5)
    assert sides([[1.0]], [[1]]) == (1.0, None)


def test_the_projection_is_off_by_the_stated_error_and_exact_where_the_weights_fit():
    """100000 weights in 1024 numbers: inner products of unit vectors are off by 1 / 32, and are right on average."""
    places = torch.cat(buckets([60000, 40000], 1024)).long()
    vectors = torch.nn.functional.normalize(torch.randn(40, 100000, generator=torch.Generator().manual_seed(1)))
    sums = torch.zeros(40, 2048).index_add_(1, places, vectors)
    kept = sums[:, :1024] - sums[:, 1024:]
    errors = (kept @ kept.T - vectors @ vectors.T)[*torch.triu_indices(40, 40, 1)]
    assert errors.square().mean().sqrt() == pytest.approx(1 / 32, rel=0.1) and abs(errors.mean()) < 0.004
    assert torch.cat(buckets([3, 2], 8)).tolist() == [0, 1, 2, 3, 4]


def test_no_batch_has_two_replies_to_one_prompt_or_more_tokens_than_allowed():
    sequences = [TokenSequence(prompt=[p, p], reply=[9] * n) for p, n in ((1, 2), (1, 2), (2, 2), (3, 6))]
    assert batches(sequences, 8) == [[0, 2], [1], [3]]
