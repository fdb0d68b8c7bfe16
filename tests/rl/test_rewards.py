"""From scores to rewards for tokens."""

import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.rl.rewards import penalise_missing_end, token_rewards

LENGTHS = np.arange(1, 6)  # every length that five tokens have room for
MASK = np.arange(5)[None] < LENGTHS[:, None]
KL = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
SCORES = np.array([1.0, -2.0, 0.5, 3.0, -0.25], np.float32)


def rewards(coef: float, kl: np.ndarray = KL) -> np.ndarray:
    return np.asarray(token_rewards(jnp.asarray(SCORES), jnp.asarray(kl), jnp.asarray(MASK), coef))


def test_the_score_sits_at_the_last_real_token_alone():
    got = rewards(0.0)
    want = np.zeros((5, 5))
    want[np.arange(5), LENGTHS - 1] = SCORES
    np.testing.assert_array_equal(got, want)


def test_every_real_token_pays_for_its_kl():
    without_score = rewards(0.1) - rewards(0.0)
    np.testing.assert_allclose(without_score, np.where(MASK, -0.1 * KL, 0.0), atol=1e-6)


def test_a_rows_sum_is_score_minus_coefficient_times_kl():
    kl = np.where(MASK, KL, np.nan)  # what is masked must not count
    want = SCORES - 0.3 * np.where(MASK, KL, 0.0).sum(1)
    np.testing.assert_allclose(rewards(0.3, kl).sum(1), want, rtol=1e-5)


def test_completions_without_an_end_pay_the_penalty():
    got = penalise_missing_end(jnp.array([1.0, -2.0, 3.0]), jnp.array([True, False, False]), 0.75)
    np.testing.assert_array_equal(got, [1.0, -2.75, 2.25])
