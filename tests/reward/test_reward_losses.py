"""Losses that teach a reward from judgements, against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.reward.losses import (
    batch_threshold,
    bradley_terry_loss,
    centering_loss,
    davidson,
    label_loss,
    outcome_loss,
    rao_kupper,
)
from tests.differences import gradient


def test_an_undecided_model_pays_log_2_whatever_the_smoothing():
    zero = jnp.zeros(3)
    for smoothing in (0.0, 0.3):
        np.testing.assert_allclose(
            bradley_terry_loss(zero, zero, smoothing), np.full(3, np.log(2)), rtol=1e-6
        )


def test_values_by_hand():
    # sigmoid(ln 3) = 3/4
    chosen, rejected = jnp.log(jnp.array([3.0, 1.0])), jnp.log(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(bradley_terry_loss(chosen, rejected), [np.log(4 / 3), np.log(4)], rtol=1e-6)
    smoothed = [0.9 * np.log(4 / 3) + 0.1 * np.log(4), 0.9 * np.log(4) + 0.1 * np.log(4 / 3)]
    np.testing.assert_allclose(bradley_terry_loss(chosen, rejected, 0.1), smoothed, rtol=1e-6)


def test_only_the_margin_matters():
    one = bradley_terry_loss(jnp.array([2.0]), jnp.array([0.5]))
    np.testing.assert_allclose(one, bradley_terry_loss(jnp.array([102.0]), jnp.array([100.5])), rtol=1e-6)


def test_large_margins_stay_finite():
    margins = jnp.array([-1e4, -200.0, 200.0, 1e4])
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(bradley_terry_loss(x, jnp.zeros(4))))(margins)
    assert float(value) == pytest.approx(10_200.0)
    np.testing.assert_allclose(gradient, [-1.0, -1.0, 0.0, 0.0], atol=1e-6)


def test_the_gradient_is_minus_the_chance_of_the_other_answer():
    gradient = jax.grad(lambda x: bradley_terry_loss(x, jnp.zeros(1))[0])(jnp.log(jnp.array([3.0])))
    np.testing.assert_allclose(gradient, [-0.25], rtol=1e-5)


def test_smoothing_puts_the_best_margin_at_the_raters_odds():
    # raters who err once in five: the best margin is ln(0.8 / 0.2)
    gradient = jax.grad(lambda x: bradley_terry_loss(x, jnp.zeros(1), 0.2)[0])
    assert float(gradient(jnp.log(jnp.array([4.0])))[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(gradient(jnp.array([1.0]))[0]) < 0 < float(gradient(jnp.array([2.0]))[0])


def test_centering_by_hand():
    got = centering_loss(jnp.array([1.0, 2.0, -0.5]), jnp.array([-1.0, 1.0, -0.5]))
    np.testing.assert_allclose(got, [0.0, 9.0, 1.0])


def rao_kupper_by_hand(d, log_theta):
    """Rao, Kupper 1967, in the paper's worths pi = exp(reward): first, second, tie."""
    one, other, theta = np.exp(d), 1.0, np.exp(log_theta)
    first, second = one / (one + theta * other), other / (theta * one + other)
    tie = one * other * (theta**2 - 1) / ((one + theta * other) * (theta * one + other))
    return np.stack([first, second, tie])


def davidson_by_hand(d, log_nu):
    """Davidson 1970, in the paper's worths pi = exp(reward): first, second, tie."""
    one, other, nu = np.exp(d), 1.0, np.exp(log_nu)
    middle = nu * np.sqrt(one * other)
    return np.stack([one, other + 0 * one, middle]) / (one + other + middle)


TIES = {"rao_kupper": (rao_kupper, rao_kupper_by_hand), "davidson": (davidson, davidson_by_hand)}
DIFFERENCES = np.array([-4.0, -0.7, 0.0, 0.2, 3.0])
TIED = np.array([True, False, True, False, True])


@pytest.mark.parametrize("name", TIES)
@pytest.mark.parametrize("parameter", [0.05, 0.5, 2.0])
def test_ties_have_the_papers_probabilities(name, parameter):
    ours, by_hand = TIES[name]
    got = np.exp(np.stack(ours(jnp.asarray(DIFFERENCES, jnp.float32), parameter)))
    np.testing.assert_allclose(got, by_hand(DIFFERENCES, parameter), rtol=2e-5)
    np.testing.assert_allclose(got.sum(axis=0), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", TIES)
def test_ties_have_the_gradient_of_the_papers_likelihood(name):
    """In the rewards and in the tie parameter, with a tenth of the raters erring."""
    ours, by_hand = TIES[name]

    def reference(inputs):
        first, second, tie = np.log(by_hand(inputs[:-1], inputs[-1]))
        return -np.sum(np.where(TIED, tie, 0.9 * first + 0.1 * second))

    def loss(inputs):
        return jnp.sum(outcome_loss(ours(inputs[:-1], inputs[-1]), jnp.asarray(TIED), 0.1))

    inputs = np.append(DIFFERENCES, 0.6)
    value, slope = jax.value_and_grad(loss)(jnp.asarray(inputs, jnp.float32))
    assert float(value) == pytest.approx(reference(inputs), rel=1e-5)
    np.testing.assert_allclose(slope, gradient(reference, inputs), atol=2e-5)


@pytest.mark.parametrize("name", TIES)
def test_ties_far_out_stay_finite(name):
    ours = TIES[name][0]

    def loss(d, parameter):
        return jnp.sum(outcome_loss(ours(d, parameter), jnp.array([True, False, True, False])))

    far = jnp.array([-300.0, -300.0, 300.0, 300.0])
    for parameter in (1e-9, 0.1, 60.0):
        value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(far, jnp.asarray(parameter))
        assert all(np.isfinite(leaf).all() for leaf in (value, *slopes))


def test_without_a_threshold_rao_and_kupper_are_bradley_and_terry():
    d = jnp.asarray(DIFFERENCES, jnp.float32)
    never = jnp.zeros(len(DIFFERENCES), bool)
    np.testing.assert_allclose(
        outcome_loss(rao_kupper(d, 0.0), never, 0.2),
        bradley_terry_loss(d, jnp.zeros_like(d), 0.2),
        rtol=1e-4,
    )


def test_davidsons_ties_leave_the_odds_of_the_decided_alone():
    d = jnp.asarray(DIFFERENCES, jnp.float32)
    few, many = davidson(d, -2.0), davidson(d, 2.0)
    for outcomes in (few, many):
        np.testing.assert_allclose(outcomes.first_B - outcomes.second_B, d, atol=1e-5)
    assert (many.tie_B > few.tie_B).all()


def test_a_margin_is_taken_off_the_distance():
    # Llama 2, equation 2: -log sigmoid(r_c - r_r - m); 2.5 - 1 - 1.5 = 0
    got = bradley_terry_loss(jnp.array([2.5, 2.5]), jnp.ones(2), margin_B=jnp.array([1.5, 0.0]))
    np.testing.assert_allclose(got, [np.log(2), np.log1p(np.exp(-1.5))], rtol=1e-6)


def test_thumbs_are_a_logistic_regression():
    reward, label = np.array([0.5, -1.0, 2.0, 0.1]), np.array([True, True, False, False])

    def reference(inputs):
        chance = 1 / (1 + np.exp(-(inputs[:-1] - inputs[-1])))
        return -np.sum(
            np.where(label, 0.9 * np.log(chance) + 0.1 * np.log(1 - chance), 0.0)
            + np.where(label, 0.0, 0.9 * np.log(1 - chance) + 0.1 * np.log(chance))
        )

    inputs = np.append(reward, 0.3)
    value, slope = jax.value_and_grad(lambda x: jnp.sum(label_loss(x[:-1], jnp.asarray(label), x[-1], 0.1)))(
        jnp.asarray(inputs, jnp.float32)
    )
    assert float(value) == pytest.approx(reference(inputs), rel=1e-5)
    np.testing.assert_allclose(slope, gradient(reference, inputs), atol=2e-5)


def test_the_batchs_threshold_is_its_mean_and_takes_no_gradient():
    reward = jnp.array([1.0, 2.0, 6.0])
    assert float(batch_threshold(reward)) == pytest.approx(3.0)
    np.testing.assert_array_equal(jax.grad(batch_threshold)(reward), np.zeros(3))
