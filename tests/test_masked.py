"""Masked arithmetic: what is masked counts for nothing, whatever stands there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.masked import (
    masked_mean,
    masked_softmax,
    masked_sum,
    masked_variance,
    row_mean,
    token_entropy,
    token_logprobs,
    up_to_end,
    whiten,
)

VALUES = np.array([[1.0, 2.0, 4.0], [9.0, -3.0, 100.0]], np.float32)
MASK = np.array([[True, True, True], [True, False, False]])
COUNTED = VALUES[MASK]  # 1, 2, 4, 9


def spoil(values: np.ndarray, mask: np.ndarray, bad: float) -> jax.Array:
    """`values` with `bad` wherever the mask is False."""
    return jnp.asarray(np.where(mask, values, np.float32(bad)))


def test_sum_mean_and_variance_are_those_of_the_counted_values():
    total, weight = masked_sum(jnp.asarray(VALUES), jnp.asarray(MASK))
    assert (float(total), float(weight)) == (16.0, 4.0)
    assert float(masked_mean(jnp.asarray(VALUES), jnp.asarray(MASK))) == 4.0
    # (9 + 4 + 0 + 25) / 4
    assert float(masked_variance(jnp.asarray(VALUES), jnp.asarray(MASK))) == 9.5


def test_row_mean_is_each_rows_own():
    spoilt = spoil(VALUES, MASK, np.nan)
    np.testing.assert_allclose(row_mean(spoilt, jnp.asarray(MASK)), [7 / 3, 9], rtol=1e-6)
    np.testing.assert_array_equal(row_mean(spoilt, jnp.zeros((2, 3), bool)), [0, 0])
    slope = jax.grad(lambda values: jnp.sum(row_mean(values, jnp.asarray(MASK))))(spoilt)
    np.testing.assert_allclose(slope, [[1 / 3, 1 / 3, 1 / 3], [1, 0, 0]], rtol=1e-6)


def test_nothing_counted_gives_zero():
    nothing = jnp.zeros((2, 3), bool)
    assert float(masked_mean(jnp.asarray(VALUES), nothing)) == 0.0
    assert float(masked_variance(jnp.asarray(VALUES), nothing)) == 0.0
    np.testing.assert_array_equal(whiten(jnp.asarray(VALUES), nothing), np.zeros((2, 3)))


def test_sums_of_microbatches_add_up_to_the_whole():
    whole = masked_sum(jnp.asarray(VALUES), jnp.asarray(MASK))
    parts = [masked_sum(jnp.asarray(VALUES[row]), jnp.asarray(MASK[row])) for row in range(2)]
    np.testing.assert_array_equal(np.array(whole), np.sum(np.array(parts), axis=0))
    mean_of_means = np.mean([float(total / weight) for total, weight in parts])
    assert mean_of_means != pytest.approx(float(whole[0] / whole[1]))  # which is why pairs are kept


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("statistic", [masked_mean, masked_variance, lambda v, m: jnp.sum(whiten(v, m) ** 3)])
def test_masked_values_reach_neither_statistic_nor_gradient(statistic, bad):
    mask = jnp.asarray(MASK)
    clean = jax.value_and_grad(statistic)(spoil(VALUES, MASK, 0.0), mask)
    dirty = jax.value_and_grad(statistic)(spoil(VALUES, MASK, bad), mask)
    np.testing.assert_array_equal(dirty[0], clean[0])
    np.testing.assert_array_equal(dirty[1], clean[1])
    assert np.isfinite(dirty[1]).all() and not np.asarray(dirty[1])[~MASK].any()


def test_whiten_gives_zero_mean_and_unit_variance_where_it_counts():
    out = np.asarray(whiten(jnp.asarray(VALUES), jnp.asarray(MASK)))
    assert out[MASK].mean() == pytest.approx(0.0, abs=1e-6)
    assert out[MASK].std() == pytest.approx(1.0, rel=1e-6)
    assert not out[~MASK].any()


def test_whiten_keeps_the_mean_unless_it_is_shifted():
    out = np.asarray(whiten(jnp.asarray(VALUES), jnp.asarray(MASK), shift_mean=False))
    assert out[MASK].mean() == pytest.approx(COUNTED.mean(), rel=1e-6)
    assert out[MASK].std() == pytest.approx(1.0, rel=1e-6)
    assert not out[~MASK].any()


def test_equal_values_whiten_to_zero_not_nan():
    same = jnp.full((2, 3), 5.0)
    np.testing.assert_allclose(whiten(same, jnp.asarray(MASK)), np.zeros((2, 3)), atol=1e-5)


LOGITS = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
IDS = np.array([[0, 4, 2], [3, 1, 1]], np.int32)


@pytest.mark.parametrize("bad", [1e4, np.inf, np.nan])
def test_softmax_shares_among_what_counts(bad):
    scores = np.log(np.array([[1.0, 3.0, 9.0], [2.0, 5.0, 5.0]], np.float32))
    mask = np.array([[True, True, False], [False, True, True]])
    wanted = [[0.25, 0.75, 0], [0, 0.5, 0.5]]
    np.testing.assert_allclose(masked_softmax(spoil(scores, mask, bad), jnp.asarray(mask)), wanted, rtol=1e-6)
    turned = masked_softmax(spoil(scores, mask, bad).T, jnp.asarray(mask.T), axis=0)
    np.testing.assert_allclose(turned.T, wanted, rtol=1e-6)
    nothing = masked_softmax(spoil(scores, mask, bad), jnp.zeros((2, 3), bool))
    np.testing.assert_allclose(nothing, np.full((2, 3), 1 / 3), rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(masked_softmax(x, jnp.asarray(mask))[:, 1]))(
        spoil(scores, mask, bad)
    )
    np.testing.assert_allclose(gradient, [[-3 / 16, 3 / 16, 0], [0, 1 / 4, -1 / 4]], rtol=1e-5)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def test_token_logprobs_are_those_of_the_softmax():
    got = token_logprobs(jnp.asarray(LOGITS), jnp.asarray(IDS), jnp.asarray(MASK))
    want = np.take_along_axis(log_softmax(LOGITS), IDS[..., None], -1)[..., 0]
    np.testing.assert_allclose(got, np.where(MASK, want, 0.0), rtol=1e-5, atol=1e-6)


def test_token_logprobs_of_large_and_of_half_precision_logits():
    large = jnp.asarray(LOGITS) + 1e4
    want = token_logprobs(jnp.asarray(LOGITS), jnp.asarray(IDS), jnp.asarray(MASK))
    np.testing.assert_allclose(
        token_logprobs(large, jnp.asarray(IDS), jnp.asarray(MASK)), want, atol=5e-3
    )  # 1e4 has a grain of 1e-3
    half = token_logprobs(jnp.asarray(LOGITS, jnp.bfloat16), jnp.asarray(IDS), jnp.asarray(MASK))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, want, atol=0.03)


def test_entropy_is_that_of_the_softmax_and_zero_where_masked():
    got = token_entropy(jnp.asarray(LOGITS), jnp.asarray(MASK))
    logprobs = log_softmax(LOGITS)
    want = np.where(MASK, -(np.exp(logprobs) * logprobs).sum(-1), 0.0)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    uniform = token_entropy(jnp.zeros((1, 1, 8)), jnp.ones((1, 1), bool))
    assert float(uniform[0, 0]) == pytest.approx(np.log(8))


def test_entropy_and_its_gradient_are_finite_where_tokens_are_forbidden():
    logits = jnp.asarray(LOGITS).at[:, :, 0].set(-1e30)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(token_entropy(x, jnp.asarray(MASK))))(logits)
    logprobs = log_softmax(LOGITS[:, :, 1:])
    assert float(value) == pytest.approx((-(np.exp(logprobs) * logprobs).sum(-1))[MASK].sum(), rel=1e-5)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[:, :, 0].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["logprobs", "entropy"])
def test_logits_at_masked_positions_reach_neither_value_nor_gradient(name, bad):
    def summed(logits: jax.Array) -> jax.Array:
        if name == "entropy":
            return jnp.sum(token_entropy(logits, jnp.asarray(MASK)))
        return jnp.sum(token_logprobs(logits, jnp.asarray(IDS), jnp.asarray(MASK)))

    clean = jax.value_and_grad(summed)(jnp.asarray(LOGITS))
    dirty = jax.value_and_grad(summed)(spoil(LOGITS, MASK[..., None], bad))
    np.testing.assert_array_equal(dirty[0], clean[0])
    np.testing.assert_array_equal(dirty[1], clean[1])
    assert np.isfinite(dirty[1]).all()


def test_up_to_end_includes_the_first_end_token_only():
    ids = jnp.array([[5, 2, 7, 2], [2, 2, 2, 2], [5, 6, 7, 8], [5, 6, 7, 2]])
    want = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    np.testing.assert_array_equal(up_to_end(ids, 2), np.array(want, bool))
