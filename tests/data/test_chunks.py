"""Working through rows in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.chunks import in_chunks


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (8, 4), (3, 4), (1, 1), (5, 1)])
def test_all_rows_come_back_in_order(count, batch):
    table = np.arange(100).reshape(50, 2)
    out = in_chunks(lambda rows: {"a": jnp.asarray(table[rows]), "b": jnp.asarray(rows)}, count, batch)
    np.testing.assert_array_equal(out["a"], table[:count])
    np.testing.assert_array_equal(out["b"], np.arange(count))
    assert isinstance(out["a"], np.ndarray)


def test_chunks_have_one_size_so_that_one_program_is_compiled():
    traced = []

    @jax.jit
    def double(rows: jax.Array) -> jax.Array:
        traced.append(rows.shape)
        return 2 * rows

    out = in_chunks(lambda rows: double(jnp.asarray(rows)), 11, 4)
    np.testing.assert_array_equal(out, 2 * np.arange(11))
    assert traced == [(4,)]


def test_no_row_beyond_the_last_is_asked_for():
    asked: list[int] = []

    def note(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        return rows

    in_chunks(note, 5, 4)
    assert max(asked) == 4
