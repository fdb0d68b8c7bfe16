"""Several passes over one rollout, in random minibatches, as one scan."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from mmrlhf_jax.sharding import by_rows
from mmrlhf_jax.types import Metrics

Carry = TypeVar("Carry")
Batch = TypeVar("Batch")
Sums = TypeVar("Sums")


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
        lambda carry, rows_M: step(carry, by_rows(jax.tree.map(lambda leaf: leaf[rows_M], batch))),
        carry,
        order,
    )
    return carry, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)


def accumulate(compute: Callable[[Batch], Sums], batch: Batch, *, microbatches: int) -> Sums:
    """The sum of `compute` over `microbatches` equal parts of `batch`, one after the other to save memory.

    Args:
      compute: a part → a pytree of sums over its rows, such as gradients of a summed loss.
      batch: pytree whose leaves share their leading axis, a multiple of `microbatches`.
    """
    if microbatches == 1:
        return compute(batch)
    parts = jax.tree.map(lambda leaf: leaf.reshape(microbatches, -1, *leaf.shape[1:]), batch)
    shapes = jax.eval_shape(compute, jax.tree.map(lambda leaf: leaf[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, compute(by_rows(part))), None), zeros, parts
    )
    return total
