"""Epochs over a rollout: every row once in each, in an order of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.rl.update import accumulate, run_epochs

ROWS, EPOCHS, MINIBATCHES = 12, 3, 4


def visits(key: jax.Array, rows: int = ROWS, epochs: int = EPOCHS, minibatches: int = MINIBATCHES):
    """Rows in the order of their visits, (epochs, rows), and the summed metrics."""
    batch = {"row": jnp.arange(rows), "twice": 2 * jnp.arange(rows)[:, None]}

    def step(carry, batch):
        order, count = carry
        order = jax.lax.dynamic_update_slice(order, batch["row"][None], (count, 0))
        agree = jnp.all(batch["twice"][:, 0] == 2 * batch["row"])
        metrics = {
            "row": (jnp.sum(batch["row"]).astype(jnp.float32), jnp.asarray(float(rows // minibatches))),
            "agree": (agree.astype(jnp.float32), jnp.ones(())),
        }
        return (order, count + 1), metrics

    empty = jnp.full((epochs * minibatches, rows // minibatches), -1)
    carry = (empty, jnp.zeros((), jnp.int32))
    (order, count), metrics = run_epochs(step, carry, batch, key, epochs=epochs, minibatches=minibatches)
    assert int(count) == epochs * minibatches
    return np.asarray(order).reshape(epochs, -1), metrics


def test_every_row_comes_once_an_epoch_and_leaves_stay_together():
    order, metrics = visits(jax.random.key(0))
    for epoch in order:
        assert sorted(epoch) == list(range(ROWS))
    total, weight = metrics["agree"]
    assert float(total) == float(weight) == EPOCHS * MINIBATCHES


def test_epochs_have_orders_of_their_own():
    order, _ = visits(jax.random.key(0))
    assert len({tuple(epoch) for epoch in order.tolist()}) == EPOCHS
    # and minibatches other members, not only another sequence of the same ones
    members = [{frozenset(part) for part in epoch.reshape(MINIBATCHES, -1).tolist()} for epoch in order]
    assert members[0] != members[1]


def test_the_key_decides():
    one, again, other = (visits(jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_metrics_are_added_up_over_all_minibatches():
    _, metrics = visits(jax.random.key(0))
    total, weight = metrics["row"]
    assert float(total) == EPOCHS * sum(range(ROWS))
    assert float(weight) == EPOCHS * ROWS


def test_the_carry_goes_from_minibatch_to_minibatch():
    # x <- x / 2 + 1 six times from 0 gives 2 (1 - 2^-6)
    carry, _ = run_epochs(
        lambda x, batch: (0.5 * x + 1.0, {}),
        jnp.zeros(()),
        jnp.arange(6.0),
        jax.random.key(0),
        epochs=2,
        minibatches=3,
    )
    assert float(carry) == 2 * (1 - 2**-6)


def test_microbatches_add_up_to_the_batch():
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=4), jnp.float32)
    batch = {"x": jnp.asarray(rng.normal(size=(12, 4)), jnp.float32), "y": jnp.asarray(rng.normal(size=12))}
    batch["y"] = batch["y"].astype(jnp.float32)
    seen = []

    def compute(part):
        seen.append(len(part["y"]))
        loss = lambda w: jnp.sum(jnp.square(part["x"] @ w - part["y"]))  # noqa: E731
        return jax.grad(loss)(weights), {"rows": jnp.asarray(float(len(part["y"])))}

    whole, metrics = accumulate(compute, batch, microbatches=1)
    for parts in (2, 3, 12):
        seen.clear()
        got, counted = accumulate(compute, batch, microbatches=parts)
        np.testing.assert_allclose(got, whole, rtol=1e-5)
        assert float(counted["rows"]) == float(metrics["rows"]) == 12
        assert set(seen) == {12 // parts}  # no part is larger than what memory is meant for


def test_a_rollout_that_cannot_be_cut_evenly_is_refused():
    with pytest.raises(ValueError, match=r"12 rows .* 5 minibatches"):
        visits(jax.random.key(0), minibatches=5)
