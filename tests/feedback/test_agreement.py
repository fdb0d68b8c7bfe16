import math

import numpy as np
import pytest

from mmrlhf_jax.feedback.agreement import (
    choice_ratings,
    krippendorff_alpha,
    pairwise_agreement,
    rater_accuracy,
)
from mmrlhf_jax.feedback.raters import Judgement

X = math.nan
JUDGEMENTS = [
    Judgement(0, "simulated-0", "a", "a"),
    Judgement(0, "simulated-1", "b", "a"),
    Judgement(1, "simulated-0", "a", "b"),
    Judgement(2, "simulated-1", "a", "tie"),
    Judgement(2, "simulated-2", "b", "b"),
    Judgement(4, "simulated-2", "b", "a"),
    Judgement(4, "simulated-0", "b", "a"),
    Judgement(4, "simulated-1", "b", "b"),
]


def test_pairwise_agreement_counts_each_two_raters_of_a_pair():
    # Pair 0: 1 of 1; pair 2: 0 of 1; pair 4: 1 of 3.
    assert pairwise_agreement(JUDGEMENTS) == pytest.approx(2 / 5)


def test_pairwise_agreement_is_nan_without_two_raters():
    assert math.isnan(pairwise_agreement([]))
    assert math.isnan(pairwise_agreement(JUDGEMENTS[1:4]))
    assert math.isnan(pairwise_agreement([JUDGEMENTS[0], JUDGEMENTS[0]]))


def test_rater_accuracy_leaves_out_ties_and_close_pairs():
    utilities_a = [0.9, 0.5, 0.2, 0.0, 0.4]
    utilities_b = [0.1, 0.4, 0.8, 0.0, 0.7]
    # Decided: pair 0 right twice, 1 wrong, 2 right once, 4 wrong twice and right once.
    assert rater_accuracy(JUDGEMENTS, utilities_a, utilities_b, tie_margin=0.0) == pytest.approx(4 / 7)
    assert rater_accuracy(JUDGEMENTS, utilities_a, utilities_b, tie_margin=0.2) == pytest.approx(4 / 6)
    assert rater_accuracy(JUDGEMENTS, utilities_a, utilities_b, tie_margin=0.5) == 1
    assert math.isnan(rater_accuracy(JUDGEMENTS, utilities_a, utilities_b, tie_margin=1.0))


def test_rater_accuracy_leaves_out_pairs_of_equal_utility():
    assert math.isnan(rater_accuracy([Judgement(0, "simulated-0", "a", "a")], [0.5], [0.5]))


def test_choice_ratings():
    expected = [[1, -1, X, 1], [1, X, 0, -1], [X, X, -1, 1]]
    np.testing.assert_array_equal(choice_ratings(JUDGEMENTS), expected)


def test_krippendorff_alpha_of_published_examples():
    # Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), C: 4 observers, 12 units.
    ratings = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, X, X, X],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, X, 3],
        [X, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, X],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, X],
    ]
    assert krippendorff_alpha(np.array(ratings)) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(np.array(ratings), distance="interval") == pytest.approx(0.849, abs=5e-4)
    # The same, A: 2 observers, 10 units of 0 and 1.
    ratings = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
    assert krippendorff_alpha(np.array(ratings)) == pytest.approx(0.095, abs=5e-4)


def test_krippendorff_alpha_at_its_ends():
    assert krippendorff_alpha(np.array([[1, 2, 1, 2], [1, 2, 1, 2]])) == 1
    assert krippendorff_alpha(np.array([[1, 2, 1, 2], [2, 1, 2, 1]])) < 0
    assert math.isnan(krippendorff_alpha(np.array([[1, 1, 1], [1, 1, 1]])))
    assert math.isnan(krippendorff_alpha(np.array([[1, X], [X, 2]])))
    rng = np.random.default_rng(0)
    assert krippendorff_alpha(rng.integers(3, size=(5, 4000))) == pytest.approx(0, abs=0.02)
