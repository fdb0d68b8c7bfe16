"""Which modalities are left out, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.fusion import drop_modalities

ROWS = 20_000
dropped = jax.jit(drop_modalities)


def test_how_often_each_is_left_out():
    """Each with its rate, but for the rows where all would be: there each stays in a third."""
    rate = 0.4
    kept = np.asarray(dropped(jnp.ones((ROWS, 3), bool), rate, jax.random.key(0)))
    np.testing.assert_allclose(kept.mean(axis=0), 1 - rate + rate**3 / 3, atol=0.015)
    alone = (kept.sum(axis=1) == 1).mean()
    np.testing.assert_allclose(alone, 3 * (1 - rate) * rate**2 + rate**3, atol=0.015)
    both = (kept[:, 0] & kept[:, 1]).mean()
    np.testing.assert_allclose(both, (1 - rate) ** 2, atol=0.015)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_at_least_one_stays_and_none_appears(rate):
    present = np.random.default_rng(0).random((ROWS, 3)) < 0.4
    kept = np.asarray(dropped(present, rate, jax.random.key(1)))
    assert not np.any(kept & ~present)
    np.testing.assert_array_equal(kept.any(axis=1), present.any(axis=1))
    if rate == 0:
        np.testing.assert_array_equal(kept, present)
    if rate == 1:
        assert kept.sum(axis=1).max() == 1
        np.testing.assert_allclose(kept[present.all(axis=1)].mean(axis=0), 1 / 3, atol=0.05)


def test_keys_differ_and_rates_share_one_program():
    present, traces = jnp.ones((64, 2), bool), []

    @jax.jit
    def counted(rate, key):
        traces.append(rate)
        return drop_modalities(present, rate, key)

    one, other = counted(0.5, jax.random.key(0)), counted(0.5, jax.random.key(1))
    assert np.any(one != other) and np.array_equal(one, counted(0.5, jax.random.key(0)))
    counted(0.1, jax.random.key(0))
    assert len(traces) == 1
