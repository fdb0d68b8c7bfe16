"""PPO's losses against numbers by hand and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.rl.losses import (
    approx_kl,
    clipped_value_loss,
    mean_parts,
    policy_gradient_loss,
    ppo_clip_loss,
    sequence_logprobs,
)

LN = np.log


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.0, 2.0, -2.0, True),
        (1.1, 2.0, -2.2, True),
        (1.5, 2.0, -2.4, False),  # clipped at 1.2: no gain in going further
        (1.5, -2.0, 3.0, True),  # a bad token made likelier is never clipped
        (0.5, -2.0, 1.6, False),  # clipped at 0.8
        (0.5, 2.0, -1.0, True),
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, moves):
    def one(logprob: jax.Array) -> jax.Array:
        return ppo_clip_loss(logprob, jnp.asarray(-1.0), jnp.asarray(advantage), 0.2)[0]

    value, gradient = jax.value_and_grad(one)(jnp.asarray(-1.0 + LN(ratio), jnp.float32))
    assert float(value) == pytest.approx(loss, rel=1e-5)
    # d/dlogp of -rho A is -rho A
    assert float(gradient) == pytest.approx(-ratio * advantage if moves else 0.0, rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (10.0, -2.0, 6.0, False),  # bounded by 3 x 2 instead of 20
        (2.0, -2.0, 4.0, True),  # below the bound: as without it
        (10.0, 2.0, -2.4, False),  # good tokens are clipped as ever
        (1.0, -2.0, 2.0, True),
    ],
)
def test_dual_clip_by_hand(ratio, advantage, loss, moves):
    def one(logprob: jax.Array) -> jax.Array:
        return ppo_clip_loss(logprob, jnp.asarray(-1.0), jnp.asarray(advantage), 0.2, 3.0)[0]

    value, gradient = jax.value_and_grad(one)(jnp.asarray(-1.0 + LN(ratio), jnp.float32))
    assert float(value) == pytest.approx(loss, rel=1e-5)
    assert float(gradient) == pytest.approx(-ratio * advantage if moves else 0.0, rel=1e-5)


def test_the_plain_loss_has_the_gradient_of_a_ratio_of_one():
    old, advantages = jnp.array([-1.0, -2.0]), jnp.array([0.5, -3.0])
    plain = jax.grad(lambda x: jnp.sum(policy_gradient_loss(x, advantages)))(old)
    np.testing.assert_array_equal(plain, -advantages)
    clip = jax.grad(lambda x: jnp.sum(ppo_clip_loss(x, old, advantages, 0.2)[0]))(old)
    np.testing.assert_allclose(clip, plain, rtol=1e-6)


MASK = jnp.array([[True, True, False, False], [True, True, True, True]])
PER_TOKEN = jnp.array([[1.0, 3.0, 99.0, jnp.nan], [4.0, 4.0, 4.0, 8.0]])


@pytest.mark.parametrize(
    ("mean", "total", "weight"), [("token", 24.0, 6.0), ("sequence", 7.0, 2.0), ("constant", 24.0, 8.0)]
)
def test_means_over_tokens_by_hand(mean, total, weight):
    got = mean_parts(PER_TOKEN, MASK, mean)
    assert [float(part) for part in got] == [total, weight]
    one, other = (mean_parts(PER_TOKEN[i : i + 1], MASK[i : i + 1], mean) for i in range(2))
    assert [float(a + b) for a, b in zip(one, other, strict=True)] == [total, weight]


def test_gspos_ratio_is_the_geometric_mean_of_the_tokens():
    new = jnp.log(jnp.array([[0.5, 0.2, 0.7, 0.7], [0.1, 0.2, 0.3, 0.4]]))
    old = jnp.log(jnp.array([[0.25, 0.2, 0.1, 0.1], [0.2, 0.2, 0.1, 0.1]]))
    ratio = np.exp(np.asarray(sequence_logprobs(new, old, MASK)))
    wanted = [2.0 ** (1 / 2), (0.5 * 1.0 * 3.0 * 4.0) ** (1 / 4)]
    np.testing.assert_allclose(ratio[:, 0], wanted, rtol=1e-5)
    np.testing.assert_allclose(ratio, np.where(MASK, ratio[:, :1], 1.0), rtol=1e-6)


def test_the_ratio_is_returned():
    _, ratio = ppo_clip_loss(jnp.array([-1.0, -2.0]), jnp.array([-1.0, -2.0 - LN(2.0)]), jnp.ones(2), 0.2)
    np.testing.assert_allclose(ratio, [1.0, 2.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "loss"),
    [
        (1.1, 0.5 * 0.9**2),  # inside the clip: the plain error
        (1.5, 0.5 * 0.8**2),  # moved too far towards the return of 2: the error at 1.2 counts
        (0.5, 0.5 * 1.5**2),  # moved away: the larger error counts
        (3.5, 0.5 * 1.5**2),  # overshot: the plain error is the larger one
    ],
)
def test_value_loss_by_hand(value, loss):
    got = clipped_value_loss(jnp.asarray(value), jnp.asarray(1.0), jnp.asarray(2.0), 0.2)
    assert float(got) == pytest.approx(loss, rel=1e-5)


def test_an_infinite_clip_gives_the_squared_error():
    values, old, returns = jnp.array([[0.0, 5.0, -3.0], [1.0, 1.0, 1.0], [2.0, -2.0, 0.0]])
    got = clipped_value_loss(values, old, returns, jnp.inf)
    np.testing.assert_allclose(got, 0.5 * np.square(np.asarray(values - returns)))


def test_approx_kl_by_hand():
    got = approx_kl(jnp.array([-1.0, -1.0]), jnp.array([-1.5, 1.0]))
    np.testing.assert_allclose(got, [0.125, 2.0])


def test_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    logprobs, old_logprobs = rng.normal(-2.0, 0.3, size=(2, 40))
    advantages, old_values, returns = rng.normal(size=(3, 40))
    # away from the kinks, where a difference across both sides would say nothing
    smooth = np.min(np.abs(np.exp(logprobs - old_logprobs)[:, None] - [0.8, 1.2]), axis=1) > 0.02
    values = old_values + rng.uniform(-0.15, 0.15, size=40)

    def surrogate(x):
        return jnp.sum(ppo_clip_loss(x, jnp.asarray(old_logprobs), jnp.asarray(advantages), 0.2)[0])

    def critic(x):
        return jnp.sum(clipped_value_loss(x, jnp.asarray(old_values), jnp.asarray(returns), 0.2))

    with jax.enable_x64(True):
        for loss, point, where in ((surrogate, logprobs, smooth), (critic, values, np.ones(40, bool))):
            gradient = np.asarray(jax.grad(loss)(jnp.asarray(point)))
            for i in np.flatnonzero(where):
                step = np.zeros(40)
                step[i] = 1e-6
                up, down = (float(loss(jnp.asarray(point + sign * step))) for sign in (1, -1))
                assert gradient[i] == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-8)
