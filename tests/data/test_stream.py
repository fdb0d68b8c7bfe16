"""The host pipeline: its order is that of sets in memory, and it goes on from any position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.order import batch_indices
from mmrlhf_jax.data.stream import BatchStream, Walk
from mmrlhf_jax.errors import UserError

pytest.importorskip("grain", reason="the extra data is not installed")
KEY = jax.random.key(5)
SIZE, BATCH, BATCHES = 10, 4, 8


def read(number: int) -> dict[str, np.ndarray]:
    return {"row": np.int32(number), "square": np.full(2, number**2, np.float32)}


def make(**fields) -> BatchStream:
    options = {"size": SIZE, "batch": BATCH, "batches": BATCHES, "key": KEY, "workers": 2} | fields
    return BatchStream(read, **options)


@pytest.fixture(scope="module")
def wanted() -> list[list[int]]:
    """The rows of each step of a set in memory."""
    step = jax.jit(lambda step: batch_indices(KEY, step, batch=BATCH, size=SIZE))
    return [np.asarray(step(jnp.asarray(i))).tolist() for i in range(BATCHES)]


def rows(batch) -> list[int]:
    assert isinstance(batch["row"], jax.Array) and batch["square"].shape == (len(batch["row"]), 2)
    np.testing.assert_array_equal(batch["square"][:, 0], np.asarray(batch["row"]) ** 2)
    return np.asarray(batch["row"]).tolist()


def test_a_walk_is_the_one_of_sets_in_memory(wanted):
    walk, flat = Walk(KEY, SIZE, BATCH * BATCHES), np.ravel(wanted).tolist()
    assert [walk[i] for i in range(len(walk))] == flat
    assert [walk[i] for i in (31, 0, 17)] == [flat[i] for i in (31, 0, 17)]  # in any order
    assert [Walk(jax.random.key(6), SIZE, 40)[i] for i in range(32)] != flat


def test_batches_come_in_order_with_and_without_reading_ahead(wanted):
    stream = make()
    got = []
    for position in range(BATCHES):
        got.append(rows(stream.at(position)))
        if position % 3:
            stream.prefetch()
    assert got == wanted
    stream.prefetch()  # at the end there is nothing to read
    stream.close()


def test_it_goes_on_from_any_position(wanted):
    stream = make()
    stream.prefetch()
    for position in (5, 6, 2, 3, 7, 0):
        assert rows(stream.at(position)) == wanted[position]
        stream.prefetch()
    stream.close()


def test_processes_read_their_own_rows_of_each_batch(wanted):
    shares = ([0, 1], [3], [0, 1, 2, 3])
    streams = [make(own_B=np.array(share)) for share in shares]
    for position in (0, 1, 2, 6):
        for share, stream in zip(shares, streams, strict=True):
            assert rows(stream.at(position)) == [wanted[position][row] for row in share]
    for stream in streams:
        stream.close()


def test_what_reading_raises_reaches_the_step():
    def fail(number: int):
        raise UserError(f"picture {number} is gone")

    stream = BatchStream(fail, size=4, batch=2, batches=2, key=KEY)
    with pytest.raises(UserError, match="is gone"):
        stream.at(0)
    stream.close()


def test_without_grain_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mmrlhf-jax\[data\]"):
        make()
