"""The distance to the reference and the controller that keeps it in bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.rl.kl import adapt_kl_coef, kl_estimate


def adapt(
    coef: float, kl: float, *, target: float = 6.0, horizon: float = 1000.0, samples: int = 100
) -> float:
    return float(adapt_kl_coef(jnp.asarray(coef), jnp.asarray(kl), target, horizon, samples))


def test_the_estimate_is_unbiased_under_the_policys_own_samples():
    rng = np.random.default_rng(0)
    p, q = (np.exp(x) / np.exp(x).sum() for x in rng.normal(size=(2, 8)))
    exact = float(np.sum(p * np.log(p / q)))
    ids = rng.choice(8, size=200_000, p=p)
    estimate = kl_estimate(jnp.asarray(np.log(p))[ids], jnp.asarray(np.log(q))[ids])
    # three standard errors
    assert float(jnp.mean(estimate)) == pytest.approx(exact, abs=3 * float(jnp.std(estimate)) / 447)
    assert float(jnp.min(estimate)) < 0  # single samples may be negative


@pytest.mark.parametrize(
    ("kl", "want"),
    [
        (6.0, 0.05),  # on target
        (6.6, 0.05 * 1.01),  # 10 % above, a tenth of the horizon
        (5.4, 0.05 * 0.99),
        (60.0, 0.05 * 1.02),  # clipped at 20 %
        (0.0, 0.05 * 0.98),
        (-3.0, 0.05 * 0.98),  # an estimate may be negative
    ],
)
def test_it_leans_against_the_error_by_so_much(kl, want):
    assert adapt(0.05, kl) == pytest.approx(want, rel=1e-6)


def test_an_infinite_horizon_keeps_the_coefficient():
    assert adapt(0.05, 60.0, horizon=float("inf")) == pytest.approx(0.05)


def test_it_finds_the_coefficient_that_meets_the_target():
    # a system whose KL falls as 0.3 / coefficient meets a target of 6 at 0.05
    @jax.jit
    def settle(coef: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 2000, lambda _, c: adapt_kl_coef(c, 0.3 / c, 6.0, 1000.0, 100), coef)

    for start in (0.001, 2.0):
        assert float(settle(jnp.asarray(start))) == pytest.approx(0.05, rel=0.01)
