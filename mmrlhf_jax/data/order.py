"""Which examples a step sees: a pure function of (key, step), so that resuming needs no cursor."""

import jax
import jax.numpy as jnp


def batch_indices(key: jax.Array, step: jax.Array, *, batch: int, size: int) -> jax.Array:
    """Indices (batch,) int32 of the examples of `step`.

    Steps walk through endless epochs, each a fresh permutation of range(size): every example comes once an
    epoch, and a batch may straddle two epochs.

    Raises:
      ValueError: the batch is larger than the set, or batch x size leaves 32 bits.
    """
    if batch > size:
        raise ValueError(f"a batch of {batch} cannot be drawn from {size} examples without repetition")
    if batch * size >= 2**31:
        raise ValueError(f"batches of {batch} from {size} examples: 32 bits count to 2**31 / batch examples")
    # start = step x batch, split into (epoch, offset) without leaving 32 bits in long runs
    epoch = (step // size) * batch + (step % size) * batch // size
    offset = (step % size) * batch % size
    now = jax.random.permutation(jax.random.fold_in(key, epoch), size)
    then = jax.random.permutation(jax.random.fold_in(key, epoch + 1), size)
    return jax.lax.dynamic_slice(jnp.concatenate([now, then]), (offset,), (batch,)).astype(jnp.int32)
