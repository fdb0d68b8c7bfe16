"""Several passes over one rollout, in random minibatches, as one scan."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from mmrlhf_jax.types import Metrics

Carry = TypeVar("Carry")
Batch = TypeVar("Batch")


def run_epochs(
    step: Callable[[Carry, Batch], tuple[Carry, Metrics]],
    carry: Carry,
    batch: Batch,
    key: jax.Array,
    *,
    epochs: int,
    minibatches: int,
) -> tuple[Carry, Metrics]:
    """Scans `step` over `epochs` random partitions of `batch` into `minibatches` parts.

    Every epoch has a permutation of its own, drawn from `key`; every row is seen once an epoch.

    Args:
      step: (carry, minibatch) → (carry, metrics).
      batch: pytree whose leaves share their leading axis, a multiple of `minibatches`.

    Returns:
      The last carry, and the metrics' (sum, weight) pairs added up over all minibatches.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % minibatches:
        raise ValueError(f"a rollout of {rows} rows cannot be cut into {minibatches} minibatches")
    keys = jax.random.split(key, epochs)
    order = jax.vmap(lambda key: jax.random.permutation(key, rows))(keys).reshape(epochs * minibatches, -1)
    carry, metrics = jax.lax.scan(
        lambda carry, rows_M: step(carry, jax.tree.map(lambda leaf: leaf[rows_M], batch)), carry, order
    )
    return carry, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)
