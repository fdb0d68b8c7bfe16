"""Rank correlations, area under the curve and discounted gain, against scipy and by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from mmrlhf_jax.evaluate.ranking import kendall_tau, ndcg, roc_auc, spearman


@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlations_agree_with_scipy(levels):
    """With many ties, and with hardly any."""
    rng = np.random.default_rng(levels)
    grades = rng.integers(0, levels, 200)
    scores = np.round(grades / levels + rng.normal(size=200), 1)
    assert spearman(scores, grades) == pytest.approx(scipy.stats.spearmanr(scores, grades).statistic)
    assert kendall_tau(scores, grades) == pytest.approx(scipy.stats.kendalltau(scores, grades).statistic)


def test_the_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    scores, labels = np.round(rng.normal(size=80), 1), rng.random(80) < 0.3
    difference = scores[labels][:, None] - scores[~labels][None]
    want = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert roc_auc(scores, labels) == pytest.approx(want)
    assert roc_auc(-scores, labels) == pytest.approx(1 - want)


def test_gain_by_hand():
    # order: gains 0, 3, 2; DCG = 3 / log2(3) + 2 / 2; best: 3 + 2 / log2(3)
    want = (3 / math.log2(3) + 1) / (3 + 2 / math.log2(3))
    assert ndcg(np.array([0.1, 0.5, 0.9]), np.array([2, 3, 0])) == pytest.approx(want)
    assert ndcg(np.array([3.0, 2.0, 1.0]), np.array([3, 2, 0])) == 1.0


def test_equal_scores_gain_what_their_orders_gain_on_average():
    gains = np.array([1, 0, 0])
    orders = [ndcg(np.array(scores), gains) for scores in ([3, 2, 1], [2, 3, 1], [1, 3, 2])]
    assert ndcg(np.zeros(3), gains) == pytest.approx(np.mean(orders))


@pytest.mark.parametrize("measure", [spearman, kendall_tau, roc_auc])
def test_what_cannot_be_ordered_is_nan(measure):
    assert math.isnan(measure(np.arange(4), np.ones(4)))
    assert math.isnan(ndcg(np.arange(4), np.zeros(4)))


@pytest.mark.parametrize("measure", [spearman, kendall_tau, roc_auc, ndcg])
def test_bad_input_is_told(measure):
    for scores, grades in (([], []), ([1.0], [1.0, 0.0]), ([[1.0]], [[1.0]])):
        with pytest.raises(ValueError, match="must be one"):
            measure(np.array(scores), np.array(grades))
    with pytest.raises(ValueError, match="finite"):
        measure(np.array([1.0, math.nan]), np.array([0, 1]))


def test_a_negative_gain_is_told():
    with pytest.raises(ValueError, match="0 or above"):
        ndcg(np.array([1.0, 2.0]), np.array([-1, 1]))
