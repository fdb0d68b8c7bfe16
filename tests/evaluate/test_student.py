"""Student's interval of a mean."""

import numpy as np
import pytest

from mmrlhf_jax.evaluate.student import mean_interval, t_quantile


def test_quantiles_are_those_of_the_tables():
    wanted = {1: 12.706, 4: 2.776, 30: 2.042, 40: 2.021, 60: 2.000, 120: 1.980}  # Fisher and Yates 1938
    assert {degrees: round(t_quantile(degrees), 3) for degrees in wanted} == wanted
    with pytest.raises(ValueError, match="one at least"):
        t_quantile(0)


def test_the_interval_of_two_values_by_hand():
    low, high = mean_interval(np.array([[0.0, 5.0], [2.0, 5.0]]))
    np.testing.assert_allclose(low, [1 - 12.706, 5.0])
    np.testing.assert_allclose(high, [1 + 12.706, 5.0])


def test_the_interval_covers_the_mean_in_95_of_100_cases():
    values_KxS = np.random.default_rng(0).normal(size=(4, 20_000))
    low, high = mean_interval(values_KxS)
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(0.95, abs=0.005)
