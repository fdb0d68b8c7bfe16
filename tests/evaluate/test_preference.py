import numpy as np
import pytest

from mmrlhf_jax.evaluate.preference import (
    expected_calibration_error,
    pair_accuracy,
    reliability_curve,
    tie_calibrated_accuracy,
    win_points,
    win_rate,
)


def test_pair_accuracy_counts_ties_half_and_nan_as_wrong():
    assert pair_accuracy(np.array([2.0, -1.0, 0.0, np.nan])) == pytest.approx(1.5 / 4)


def test_a_constant_scorer_gets_one_half():
    assert pair_accuracy(np.zeros(7)) == 0.5
    assert win_rate(np.full(7, 3.0), np.full(7, 3.0)) == 0.5


def test_win_rate_with_a_tie_margin():
    a, b = np.array([1.0, 1.0, 1.0, 1.0]), np.array([0.0, 0.75, 1.25, 2.0])
    np.testing.assert_array_equal(win_points(a - b, 0.25), [1.0, 0.5, 0.5, 0.0])
    assert win_rate(a, b, tie_margin=0.25) == 0.5
    assert win_rate(a, b, tie_margin=0.0) == 0.5
    assert win_rate(a, b - 0.5, tie_margin=0.0) == pytest.approx(0.75)


def test_win_rates_of_both_sides_add_up_to_one():
    a, b = np.random.default_rng(0).normal(size=(2, 100))
    assert win_rate(a, b, 0.3) + win_rate(b, a, 0.3) == pytest.approx(1.0)


# Bins of 0.5: {0.1, 0.3} predicted 0.2 observed 0.5; {0.5, 0.9, 1.0} predicted 0.8 observed 2/3.
PROBABILITIES = np.array([0.1, 0.3, 0.5, 0.9, 1.0])
OUTCOMES = np.array([0, 1, 1, 0, 1])


def test_reliability_curve_by_hand():
    curve = reliability_curve(PROBABILITIES, OUTCOMES, num_bins=2)
    np.testing.assert_allclose(curve.predicted_K, [0.2, 0.8])
    np.testing.assert_allclose(curve.observed_K, [0.5, 2 / 3])
    np.testing.assert_array_equal(curve.count_K, [2, 3])


def test_expected_calibration_error_by_hand():
    expected = 2 / 5 * 0.3 + 3 / 5 * (0.8 - 2 / 3)
    assert expected_calibration_error(PROBABILITIES, OUTCOMES, num_bins=2) == pytest.approx(expected)


def test_empty_bins_are_left_out():
    curve = reliability_curve(np.array([0.0, 1.0]), np.array([0, 1]), num_bins=10)
    np.testing.assert_array_equal(curve.predicted_K, [0.0, 1.0])
    assert curve.count_K.sum() == 2


def test_calibrated_predictions_have_a_small_error_and_overconfident_ones_a_large_one():
    generator = np.random.default_rng(0)
    probabilities = generator.uniform(size=20_000)
    outcomes = generator.uniform(size=20_000) < probabilities
    assert expected_calibration_error(probabilities, outcomes) < 0.02
    # Pushed to 0 or 1, a prediction p is wrong with probability min(p, 1 - p), 1/4 on average.
    assert expected_calibration_error(np.round(probabilities), outcomes) == pytest.approx(0.25, abs=0.02)


def test_bad_input_is_told():
    with pytest.raises(ValueError, match="margins is empty"):
        pair_accuracy(np.zeros(0))
    with pytest.raises(ValueError, match="differ in shape"):
        win_rate(np.zeros(3), np.zeros(1))
    with pytest.raises(ValueError, match="tie_margin"):
        win_rate(np.zeros(3), np.zeros(3), tie_margin=-1.0)
    with pytest.raises(ValueError, match="must lie from 0 to 1"):
        expected_calibration_error(np.array([0.5, np.nan]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"outcomes must lie"):
        reliability_curve(np.array([0.5]), np.array([2]))
    with pytest.raises(ValueError, match="num_bins"):
        reliability_curve(np.array([0.5]), np.array([1]), num_bins=0)
    with pytest.raises(ValueError, match="must be one"):
        reliability_curve(np.array([0.5, 0.5]), np.array([1]))


def test_ties_are_read_with_the_threshold_that_is_right_most_often():
    margins = np.array([0.1, -0.2, 3.0, 1.0, -2.0])
    ties = np.array([True, True, False, False, False])
    # up to 0.2 both ties are read as ties; 3 and 1 are in order, -2 is not
    assert tie_calibrated_accuracy(margins, ties) == (0.8, 0.2)
    assert tie_calibrated_accuracy(margins, np.zeros(5, bool)) == (0.6, 0.0)
    # the tie cannot be told from the decided one of the same margin: either is right
    assert tie_calibrated_accuracy(np.array([0.5, -0.5]), np.array([False, True]))[0] == 0.5
    for shape in ((0,), (2, 1)):
        with pytest.raises(ValueError, match="must be one"):
            tie_calibrated_accuracy(np.zeros(shape), np.zeros(shape, bool))


def test_the_calibrated_threshold_beats_every_other():
    rng = np.random.default_rng(0)
    margins, ties = np.round(rng.normal(size=60), 1), rng.random(60) < 0.3
    accuracy, threshold = tie_calibrated_accuracy(margins, ties)

    def at(threshold):
        tied = np.abs(margins) <= threshold
        return np.mean(np.where(ties, tied, (margins > threshold)))

    assert accuracy == pytest.approx(at(threshold))
    assert accuracy >= max(at(other) for other in np.arange(0, 4, 0.05))
