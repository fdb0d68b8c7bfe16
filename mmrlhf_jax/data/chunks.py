"""Working through many rows in chunks of one size."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from mmrlhf_jax.sharding import on_host


def in_chunks(compute: Callable[[np.ndarray], Any], count: int, batch: int) -> Any:
    """Joins `compute(rows)` over all of range(count), `batch` rows at a time.

    The last chunk is filled up with copies of the last row, so that one shape is compiled; fewer rows than
    `batch` are filled up to a power of two, so that sets of nearly the same size share it.

    Args:
      compute: rows (batch,) → pytree of arrays with `batch` leading rows.

    Returns:
      The same pytree of numpy arrays with `count` leading rows.

    Raises:
      ValueError: `count` is below one.
    """
    parts = [on_host(compute(rows)) for rows, _ in chunks(count, batch)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def chunks(count: int, batch: int) -> Iterator[tuple[np.ndarray, int]]:
    """(rows, how many of them are no copies) of each chunk, see `in_chunks`."""
    if count < 1:
        raise ValueError("there are no rows to work through")
    batch = min(batch, 1 << (count - 1).bit_length())
    for start in range(0, count, batch):
        yield np.minimum(np.arange(start, start + batch), count - 1), min(batch, count - start)
