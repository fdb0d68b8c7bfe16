"""Advantages without GAE, each against its formula written out row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.rl.advantages import estimate_advantages, group_relative, leave_one_out, returns_to_go

RNG = np.random.default_rng(0)
LENGTHS = np.array([6, 1, 4, 2, 3, 6])
REWARDS, VALUES = RNG.normal(size=(2, 6, 6)).astype(np.float32)
MASK = np.arange(6)[None] < LENGTHS[:, None]
GAMMA, GROUP = 0.9, 3


def to_go(row: int, t: int, gamma: float = GAMMA) -> float:
    """What row `row` earns from token t on."""
    return sum(gamma ** (s - t) * float(REWARDS[row, s]) for s in range(t, LENGTHS[row]))


def by_hand(name: str) -> np.ndarray:
    """One row and one token at a time."""
    wanted = np.zeros(REWARDS.shape)
    totals = [float(REWARDS[row, : LENGTHS[row]].sum()) for row in range(6)]
    baseline = np.mean([to_go(row, 0) for row in range(6)])
    for row in range(6):
        first = row // GROUP * GROUP
        group = totals[first : first + GROUP]
        others = [totals[i] for i in range(first, first + GROUP) if i != row]
        for t in range(LENGTHS[row]):
            wanted[row, t] = {
                "returns": to_go(row, t) - float(VALUES[row, t]),
                "batch_mean": to_go(row, t) - baseline,
                "leave_one_out": totals[row] - np.mean(others),
                "group_centred": totals[row] - np.mean(group),
                "group": (totals[row] - np.mean(group)) / (np.std(group, ddof=1) + 1e-4),
            }[name]
    return wanted


def estimate(name: str, rewards: np.ndarray = REWARDS, values: np.ndarray = VALUES):
    arrays = (jnp.asarray(x) for x in (rewards, values, MASK))
    return estimate_advantages(name, *arrays, gamma=GAMMA, lam=0.95, group=GROUP)


@pytest.mark.parametrize("name", ["returns", "batch_mean", "leave_one_out", "group_centred", "group"])
def test_each_is_its_formula_and_padding_does_not_count(name):
    spoilt = [np.where(MASK, x, np.float32(1e6)) for x in (REWARDS, VALUES)]
    for advantages, returns in (estimate(name), estimate(name, *spoilt)):
        np.testing.assert_allclose(advantages, by_hand(name), rtol=1e-4, atol=1e-5)
        wanted = [[to_go(row, t) if t < LENGTHS[row] else 0.0 for t in range(6)] for row in range(6)]
        np.testing.assert_allclose(returns, wanted, rtol=1e-4, atol=1e-5)


def test_returns_minus_values_is_gae_with_lam_1():
    arrays = [jnp.asarray(x) for x in (REWARDS, VALUES, MASK)]
    gae, _ = estimate_advantages("gae", *arrays, gamma=GAMMA, lam=1.0)
    np.testing.assert_allclose(estimate("returns")[0], gae, rtol=1e-4, atol=1e-5)


def test_leaving_oneself_out_is_the_centred_score_stretched():
    # r_i - (sum - r_i) / (K - 1) = K / (K - 1) (r_i - mean)
    scores = jnp.asarray(RNG.normal(size=12), jnp.float32)
    for group in (2, 3, 4):
        centred = group_relative(scores, group, scale=False)
        np.testing.assert_allclose(
            leave_one_out(scores, group), group / (group - 1) * centred, rtol=1e-4, atol=1e-6
        )


def test_a_group_of_equal_scores_teaches_nothing():
    scores = jnp.asarray([2.0, 2.0, 2.0, 1.0, 2.0, 3.0])
    for scale in (False, True):
        got = np.asarray(group_relative(scores, 3, scale=scale))
        np.testing.assert_array_equal(got[:3], 0.0)
        np.testing.assert_allclose(got[3:], [-1.0, 0.0, 1.0], atol=2e-4)


def test_no_gradient_flows():
    def total(rewards: jax.Array, name: str) -> jax.Array:
        arrays = rewards, jnp.asarray(VALUES), jnp.asarray(MASK)
        advantages, returns = estimate_advantages(name, *arrays, gamma=0.9, lam=0.9, group=3)
        return jnp.sum(advantages**2) + jnp.sum(returns**2)

    for name in ("returns", "group"):
        assert not np.asarray(jax.grad(total)(jnp.asarray(REWARDS), name)).any()


def test_returns_to_go_without_a_discount_are_sums():
    got = returns_to_go(jnp.asarray(REWARDS), jnp.asarray(MASK), gamma=1.0)
    wanted = np.cumsum(np.where(MASK, REWARDS, 0.0)[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(got, np.where(MASK, wanted, 0.0), rtol=1e-4, atol=1e-5)
