"""Contrastive gradients of a batch whose activations would not fit into memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.modules import Params

Rows = Any  # pytree of arrays whose leading axis is the batch


def cached_contrastive_gradients(
    embed: Callable[[Params, Rows], Rows],
    loss: Callable[[Params, Rows], jax.Array],
    params: Params,
    batch: Rows,
    *,
    chunk: int,
) -> tuple[jax.Array, Params]:
    """Value and gradient of loss(params, embed(params, batch)), holding the activations of `chunk` rows.

    GradCache (Gao et al. 2021, arXiv:2101.06983): all rows are embedded chunk by chunk, and only the
    embeddings e are kept; dL/de comes from them at once, all pairs of the batch included; each chunk is then
    embedded anew and its part of dL/de pulled back. The result is that of the whole batch whatever the chunk,
    for one more forward pass.

    Chunk k holds the rows k, k + n, k + 2n, ... of n chunks, so that a batch sharded over devices has a part
    of every chunk on each device.

    Args:
      embed: embeds each row by itself, e.g. pictures, ids and masks to image and text embeddings.
      loss: of all embeddings; may read `params` too, e.g. the logit scale.
      batch: what `embed` takes; B rows.
      chunk: rows at a time; the last chunk may be smaller.

    Raises:
      UserError: `chunk` is not positive.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    if chunk < 1:
        raise UserError(f"chunk is {chunk}: give the number of rows to hold at once, 1 to {rows}")
    count = rows // min(chunk, rows)
    whole = count * min(chunk, rows)  # rows in full chunks

    def chunked(tree: Rows) -> Rows:
        return jax.tree.map(lambda x: jnp.swapaxes(x[:whole].reshape(-1, count, *x.shape[1:]), 0, 1), tree)

    def rest(tree: Rows) -> Rows:
        return jax.tree.map(lambda x: x[whole:], tree)

    def joined(chunks: Rows) -> Rows:
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(whole, *x.shape[2:]), chunks)

    embeddings = joined(jax.lax.map(lambda part: embed(params, part), chunked(batch)))
    if whole < rows:
        last = embed(params, rest(batch))
        embeddings = jax.tree.map(lambda first, second: jnp.concatenate([first, second]), embeddings, last)
    value, (gradients, pulls) = jax.value_and_grad(loss, argnums=(0, 1))(params, embeddings)

    def add(gradients: Params, part: tuple[Rows, Rows]) -> tuple[Params, None]:
        _, pull_back = jax.vjp(lambda params: embed(params, part[0]), params)
        return jax.tree.map(jnp.add, gradients, pull_back(part[1])[0]), None

    gradients, _ = jax.lax.scan(add, gradients, (chunked(batch), chunked(pulls)))
    if whole < rows:
        gradients, _ = add(gradients, (rest(batch), rest(pulls)))
    return value, gradients
