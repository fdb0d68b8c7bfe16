"""The order of examples: every one once an epoch, and nothing to remember between steps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.order import batch_indices

KEY = jax.random.key(0)


def stream(key: jax.Array, steps: range, batch: int, size: int) -> np.ndarray:
    """The indices of `steps`, one after the other."""
    draw = jax.jit(lambda step: batch_indices(key, step, batch=batch, size=size))
    return np.concatenate([np.asarray(draw(jnp.asarray(step))) for step in steps])


@pytest.mark.parametrize(("batch", "size"), [(4, 12), (4, 10), (3, 7), (7, 7), (1, 3), (5, 6)])
def test_every_example_comes_once_an_epoch(batch, size):
    epochs = 5
    rows = stream(KEY, range(-(-epochs * size // batch)), batch, size)[: epochs * size]
    for epoch in rows.reshape(epochs, size):
        assert sorted(epoch) == list(range(size))


def test_a_batch_straddles_two_epochs():
    rows = stream(KEY, range(3), 4, 10)
    # the third batch ends the first epoch with two examples and begins the second with two
    assert set(rows[8:10]) == set(range(10)) - set(rows[:8])
    assert len(set(rows[10:])) == 2


def test_epochs_have_orders_of_their_own():
    epochs = stream(KEY, range(12), 8, 32).reshape(3, 32)
    for one, other in itertools.combinations(epochs, 2):
        assert (one != other).any()


def test_it_is_a_function_of_key_and_step_alone():
    forwards = stream(KEY, range(6), 3, 8).reshape(6, 3)
    for step in reversed(range(6)):
        np.testing.assert_array_equal(stream(KEY, range(step, step + 1), 3, 8), forwards[step])
    assert (stream(jax.random.key(1), range(6), 3, 8) != forwards.reshape(-1)).any()
    assert (stream(KEY, range(6), 3, 8) == forwards.reshape(-1)).all()


def test_step_numbers_in_the_millions_do_not_overflow():
    batch, size = 4096, 5000
    # step x batch is 1.2e10 here, far above 2**31
    step = 3_000_000
    epoch, offset = divmod(step * batch, size)
    order = [jax.random.permutation(jax.random.fold_in(KEY, epoch + i), size) for i in range(2)]
    want = np.concatenate(order)[offset : offset + batch]
    got = batch_indices(KEY, jnp.asarray(step, jnp.int32), batch=batch, size=size)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == jnp.int32


def test_a_batch_above_the_set_is_refused():
    with pytest.raises(ValueError, match=r"batch of 9 .* 8 examples"):
        batch_indices(KEY, jnp.asarray(0), batch=9, size=8)


def test_sets_beyond_32_bits_are_refused():
    with pytest.raises(ValueError, match="32 bits"):
        batch_indices(KEY, jnp.asarray(0), batch=256, size=2**23)
