"""The distance to the reference and the controller that keeps it in bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.rl.kl import adapt_kl_coef, exact_kl, kl_estimate

RNG = np.random.default_rng(1)
P, Q = (np.exp(x) / np.exp(x).sum() for x in RNG.normal(size=(2, 8)))


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


def test_each_estimator_by_hand():
    p, q = jnp.log(jnp.array([0.5, 0.1])), jnp.log(jnp.array([0.25, 0.2]))
    two = np.log(2.0)
    wanted = {"k1": [two, -two], "k2": [two**2 / 2, two**2 / 2], "k3": [two - 0.5, 1 - two]}
    for kind, values in wanted.items():
        np.testing.assert_allclose(kl_estimate(p, q, kind), values, rtol=1e-5)


def test_k1_and_k3_have_the_right_mean_and_k2_and_k3_are_never_negative():
    exact = float(np.sum(P * np.log(P / Q)))
    k1, k2, k3 = (
        np.asarray(kl_estimate(jnp.log(jnp.asarray(P)), jnp.log(jnp.asarray(Q)), kind))
        for kind in ("k1", "k2", "k3")
    )
    assert np.sum(P * k1) == pytest.approx(exact, rel=1e-4)
    assert np.sum(P * k3) == pytest.approx(exact, rel=1e-4)
    assert np.sum(P * k2) != pytest.approx(exact, rel=1e-2)
    assert k1.min() < 0 <= k2.min() and k3.min() >= 0


@pytest.mark.parametrize(("kind", "direction"), [("k1", None), ("k2", "pq"), ("k3", "qp")])
def test_as_a_loss_each_estimator_pulls_its_own_way(kind, direction):
    """The exact mean gradient over the policy's samples, in its logits, against that of either KL."""
    logits, log_q = jnp.log(jnp.asarray(P, jnp.float32)), jnp.log(jnp.asarray(Q, jnp.float32))

    def loss(logits: jax.Array) -> jax.Array:  # samples are not part of the gradient
        chance = jax.lax.stop_gradient(jax.nn.softmax(logits))
        return jnp.sum(chance * kl_estimate(jax.nn.log_softmax(logits), log_q, kind))

    def exact(logits: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(logits)
        if direction == "pq":
            return jnp.sum(jnp.exp(log_p) * (log_p - log_q))
        return jnp.sum(jnp.exp(log_q) * (log_q - log_p))

    wanted = jnp.zeros_like(logits) if direction is None else jax.grad(exact)(logits)
    np.testing.assert_allclose(jax.grad(loss)(logits), wanted, atol=1e-5)


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


def test_the_exact_kl_is_that_of_the_distributions_and_zero_where_masked():
    p, q = (jnp.asarray(np.log(x), jnp.float32) for x in (P, Q))
    logits, reference = jnp.stack([p + 3.0, p, p])[None], jnp.stack([q, p, q - 1.0])[None]
    got = exact_kl(logits, reference, jnp.array([[True, True, False]]))
    want = float(np.sum(P * np.log(P / Q)))
    np.testing.assert_allclose(got, [[want, 0.0, 0.0]], atol=1e-6)


def test_tokens_that_are_never_taken_have_no_part_in_the_exact_kl():
    forbidden = jnp.arange(8) < 2
    logits, reference = (jnp.where(forbidden, -1e30, jnp.asarray(np.log(x), jnp.float32)) for x in (P, Q))
    p, q = P[2:] / P[2:].sum(), Q[2:] / Q[2:].sum()
    got = exact_kl(logits[None, None], reference[None, None], jnp.ones((1, 1), bool))
    assert float(got[0, 0]) == pytest.approx(float(np.sum(p * np.log(p / q))), rel=1e-4)
