"""Ratings as levels of a latent reward, against McCullagh's formula written in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.reward.ordinal import (
    expected_level,
    level_edges,
    level_logprobs,
    marginal_cutpoints,
    ordered_cutpoints,
    ordinal_loss,
    raw_cutpoints,
)
from tests.differences import gradient

CUTPOINTS = np.array([-1.5, -0.2, 0.4, 2.0])
REWARDS = np.array([-3.0, -0.5, 0.0, 1.0, 4.0, 0.3])
LEVELS = np.array([0, 2, 4, 3, 1, -1])


def proportional_odds(rewards, cutpoints):
    """P(level) for each reward, (B, K): differences of the logistic distribution function."""
    below = 1 / (1 + np.exp(-(cutpoints[None] - rewards[:, None])))
    ends = np.zeros((len(rewards), 1)), np.ones((len(rewards), 1))
    return np.diff(np.concatenate([ends[0], below, ends[1]], axis=1), axis=1)


def test_levels_have_the_papers_probabilities():
    got = np.exp(level_logprobs(jnp.asarray(REWARDS, jnp.float32), jnp.asarray(CUTPOINTS, jnp.float32)))
    np.testing.assert_allclose(got, proportional_odds(REWARDS, CUTPOINTS), rtol=1e-5)


def test_the_gradient_is_that_of_the_likelihood_in_rewards_and_free_cutpoints():
    """Through the ordering of the cutpoints; a missing rating counts nothing."""
    rated = LEVELS >= 0

    def reference(inputs):
        rewards, raw = inputs[:6], inputs[6:]
        cutpoints = raw[0] + np.concatenate([[0.0], np.cumsum(0.001 + np.log1p(np.exp(raw[1:])))])
        return -np.sum(np.log(proportional_odds(rewards, cutpoints)[np.arange(6), LEVELS])[rated])

    def loss(inputs):
        return jnp.sum(ordinal_loss(inputs[:6], jnp.asarray(LEVELS), ordered_cutpoints(inputs[6:])))

    inputs = np.concatenate([REWARDS, raw_cutpoints(CUTPOINTS)])
    value, slope = jax.value_and_grad(loss)(jnp.asarray(inputs, jnp.float32))
    assert float(value) == pytest.approx(reference(inputs), rel=1e-5)
    np.testing.assert_allclose(slope, gradient(reference, inputs), atol=5e-5)
    assert float(slope[5]) == 0.0


def test_cutpoints_rise_whatever_the_free_numbers_are():
    raw = jnp.asarray(np.random.default_rng(0).normal(size=(50, 6)) * 5, jnp.float32)
    assert (np.diff(jax.vmap(ordered_cutpoints)(raw), axis=1) > 0).all()
    np.testing.assert_allclose(ordered_cutpoints(jnp.asarray(raw_cutpoints(CUTPOINTS))), CUTPOINTS, atol=1e-6)
    with pytest.raises(ValueError, match="rise"):
        raw_cutpoints(np.array([0.0, 1.0, 1.0]))


def test_rewards_far_out_stay_finite():
    far = jnp.array([-500.0, 500.0, -500.0, 500.0])
    level = jnp.array([4, 0, 2, 2])
    cutpoints = jnp.asarray(CUTPOINTS, jnp.float32)
    value, slope = jax.value_and_grad(lambda r: jnp.sum(ordinal_loss(r, level, cutpoints)))(far)
    assert float(value) == pytest.approx(4 * 500, rel=0.01)
    # Whoever rates against the reward pulls with force 1: between two cutpoints too.
    np.testing.assert_allclose(slope, [-1.0, 1.0, -1.0, 1.0], atol=1e-5)


def test_two_levels_are_a_logistic_regression():
    got = np.exp(level_logprobs(jnp.array([0.7]), jnp.array([0.2])))[0]
    np.testing.assert_allclose(got, [1 / (1 + np.exp(0.5)), 1 / (1 + np.exp(-0.5))], rtol=1e-6)


def test_the_expected_level_is_the_mean_of_the_levels():
    want = proportional_odds(REWARDS, CUTPOINTS) @ np.arange(5.0)
    got = expected_level(jnp.asarray(REWARDS, jnp.float32), jnp.asarray(CUTPOINTS, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_few_values_are_a_level_each():
    edges = level_edges(np.array([1.0, 5.0, 2.0, np.nan, 2.0, 4.0]))
    np.testing.assert_array_equal(edges, [1.5, 3.0, 4.5])
    assert np.searchsorted(edges, [1, 2, 4, 5]).tolist() == [0, 1, 2, 3]


def test_many_values_share_levels_evenly():
    ratings = np.random.default_rng(0).gamma(2.0, size=3000)
    level = np.searchsorted(level_edges(ratings), ratings)
    np.testing.assert_allclose(np.bincount(level), np.full(10, 300), atol=2)
    # nine in ten are equal: fewer levels, and none of them is empty
    skewed = np.concatenate([np.zeros(900), np.random.default_rng(1).random(100)])
    count = np.bincount(np.searchsorted(level_edges(skewed), skewed))
    assert 2 <= len(count) <= 10 and (count > 0).all()


def test_equal_ratings_teach_nothing_and_are_told():
    with pytest.raises(ValueError, match="must differ"):
        level_edges(np.array([3.0, 3.0, np.nan]))


def test_training_starts_from_the_shares_of_the_levels():
    level = np.repeat([0, 1, 2, -1], [500, 300, 200, 77])
    shares = proportional_odds(np.zeros(1), marginal_cutpoints(level, 3))[0]
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=2e-3)
