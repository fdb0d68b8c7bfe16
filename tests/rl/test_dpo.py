"""The losses of direct preference optimisation: by hand, and the policy at which they are least."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmrlhf_jax.rl.dpo import dpo_loss

CHOSEN, REJECTED, BETA = np.array([2.0, -1.0, 0.0]), np.array([1.0, 3.0, 0.0]), 0.5
MARGIN = np.array([1.0, -4.0, 0.0])


def loss(kind: str, **options) -> np.ndarray:
    sides = (jnp.asarray(side, jnp.float32) for side in (CHOSEN, REJECTED))
    return np.asarray(dpo_loss(*sides, BETA, kind=kind, **options))


def test_each_loss_by_hand():
    surprise = np.log1p(np.exp(-BETA * MARGIN))  # -log sigmoid(beta h)
    np.testing.assert_allclose(loss("sigmoid"), surprise, rtol=1e-5)
    smooth = 0.9 * surprise + 0.1 * np.log1p(np.exp(BETA * MARGIN))
    np.testing.assert_allclose(loss("sigmoid", label_smoothing=0.1), smooth, rtol=1e-5)
    np.testing.assert_allclose(loss("ipo"), (MARGIN - 1.0) ** 2, rtol=1e-5)
    np.testing.assert_allclose(loss("hinge"), [0.5, 3.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize(("kind", "slope"), [("sigmoid", -0.25), ("ipo", -2.0), ("hinge", -0.5)])
def test_where_the_policy_is_the_reference_the_chosen_answer_gains(kind, slope):
    def one(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
        return dpo_loss(chosen, rejected, BETA, kind=kind)

    up, down = jax.grad(one, argnums=(0, 1))(jnp.asarray(0.0), jnp.asarray(0.0))
    assert float(up) == -float(down) == pytest.approx(slope)  # sigmoid: -beta / 2


def test_all_preferences_of_bradley_terry_lead_to_the_regularised_optimum():
    """pi_ref exp(r / beta) / Z, with every pair weighted by how often raters would choose that way."""
    rng = np.random.default_rng(0)
    reference = jax.nn.log_softmax(jnp.asarray(rng.normal(size=7), jnp.float32))
    reward = rng.normal(size=7)
    chance_7x7 = jnp.asarray(1 / (1 + np.exp(reward[None] - reward[:, None])), jnp.float32)

    def expected(logits: jax.Array) -> jax.Array:
        ratio = jax.nn.log_softmax(logits) - reference
        chosen, rejected = (jnp.broadcast_to(x, (7, 7)) for x in (ratio[:, None], ratio[None]))
        return jnp.mean(chance_7x7 * dpo_loss(chosen, rejected, BETA))

    optimizer = optax.adam(0.03)

    @jax.jit
    def train(logits: jax.Array) -> jax.Array:
        def step(carry, _):
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(jax.grad(expected)(carry[0]), carry[1])
            return (optax.apply_updates(carry[0], updates), state), None

        (logits, _), _ = jax.lax.scan(step, (logits, optimizer.init(logits)), None, length=2000)
        return jax.nn.softmax(logits)

    wanted = np.exp(np.asarray(reference) + reward / BETA)
    found = np.asarray(train(reference))
    assert 0.5 * np.abs(found - wanted / wanted.sum()).sum() < 0.005
    assert 0.5 * np.abs(np.exp(np.asarray(reference)) - wanted / wanted.sum()).sum() > 0.2
