"""Generalised advantage estimation against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.rl.advantages import gae

RNG = np.random.default_rng(0)
LENGTHS = np.array([6, 1, 4, 0, 3])
REWARDS, VALUES = RNG.normal(size=(2, 5, 6)).astype(np.float32)
MASK = np.arange(6)[None] < LENGTHS[:, None]


def gae_by_loop(gamma: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns, one row and one token at a time, in float64."""
    advantages = np.zeros(REWARDS.shape)
    returns = np.zeros(REWARDS.shape)
    for row, length in enumerate(LENGTHS):
        following = 0.0
        for t in range(length - 1, -1, -1):
            next_value = float(VALUES[row, t + 1]) if t + 1 < length else 0.0
            delta = float(REWARDS[row, t]) + gamma * next_value - float(VALUES[row, t])
            following = delta + gamma * lam * following
            advantages[row, t] = following
            returns[row, t] = following + float(VALUES[row, t])
    return advantages, returns


def estimate(gamma: float, lam: float, *, rewards=REWARDS, values=VALUES):
    return gae(jnp.asarray(rewards), jnp.asarray(values), jnp.asarray(MASK), gamma=gamma, lam=lam)


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_it_is_the_plain_loop(gamma, lam):
    for got, want in zip(estimate(gamma, lam), gae_by_loop(gamma, lam), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_lam_1_gives_rewards_to_go_minus_values():
    advantages, returns = estimate(0.9, 1.0)
    discounts = 0.9 ** np.arange(6)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            to_go = float(np.dot(REWARDS[row, t:length], discounts[: length - t]))
            assert float(returns[row, t]) == pytest.approx(to_go, abs=1e-5)
            assert float(advantages[row, t]) == pytest.approx(to_go - VALUES[row, t], abs=1e-5)


def test_lam_0_gives_the_one_step_errors():
    advantages, _ = estimate(0.9, 0.0)
    next_values = np.pad(np.where(MASK, VALUES, 0.0)[:, 1:], ((0, 0), (0, 1)))
    want = np.where(MASK, REWARDS + 0.9 * next_values - VALUES, 0.0)
    np.testing.assert_allclose(advantages, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, 1e6])
def test_what_is_masked_does_not_matter(bad):
    spoilt = [np.where(MASK, x, np.float32(bad)) for x in (REWARDS, VALUES)]
    clean, dirty = estimate(0.9, 0.95), estimate(0.9, 0.95, rewards=spoilt[0], values=spoilt[1])
    for want, got in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(got, want)
        assert not np.asarray(got)[~MASK].any()


def test_a_constant_reward_with_the_true_values_leaves_no_advantage():
    # V_t = 1 + 0.9 V_{t+1} solves the recursion, so no token was better than expected
    to_go = np.array([sum(0.9**i for i in range(n)) for n in range(7)], np.float32)
    values = to_go[np.maximum(LENGTHS[:, None] - np.arange(6)[None], 0)]
    advantages, returns = estimate(0.9, 0.95, rewards=np.ones_like(REWARDS), values=values)
    np.testing.assert_allclose(advantages, np.zeros_like(REWARDS), atol=1e-5)
    np.testing.assert_allclose(returns, np.where(MASK, values, 0.0), atol=1e-5)


def test_no_gradient_flows():
    def total(rewards: jax.Array, values: jax.Array) -> jax.Array:
        advantages, returns = gae(rewards, values, jnp.asarray(MASK), gamma=0.9, lam=0.95)
        return jnp.sum(advantages**2) + jnp.sum(returns**2)

    for gradient in jax.grad(total, argnums=(0, 1))(jnp.asarray(REWARDS), jnp.asarray(VALUES)):
        assert not np.asarray(gradient).any()


def test_rates_may_be_traced():
    traced = jax.jit(lambda gamma, lam: gae(*map(jnp.asarray, (REWARDS, VALUES, MASK)), gamma=gamma, lam=lam))
    for got, want in zip(traced(0.9, 0.95), gae_by_loop(0.9, 0.95), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
