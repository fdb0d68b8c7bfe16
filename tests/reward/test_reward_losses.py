"""Losses that teach a reward from judgements, against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.reward.losses import bradley_terry_loss, centering_loss


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
