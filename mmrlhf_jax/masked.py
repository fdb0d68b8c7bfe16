"""Arithmetic over padded arrays: the only home of masking.

A mask is boolean, True where a value counts. Sums come with their weights, so that microbatches and
devices add up exactly.
"""

import jax
import jax.numpy as jnp


def masked_sum(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum of `values` where `mask`, number of True in `mask`), both float32 scalars."""
    return jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask.astype(jnp.float32))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `values` where `mask`; 0 where nothing counts."""
    total, weight = masked_sum(values, mask)
    return total / jnp.maximum(weight, 1.0)


def row_mean(values_BxT: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    """Mean of each row of `values` where `mask`, (B,); 0 where nothing of the row counts."""
    total_B = jnp.sum(jnp.where(mask_BxT, values_BxT, 0.0), axis=1)
    return total_B / jnp.maximum(jnp.sum(mask_BxT, axis=1, dtype=jnp.float32), 1.0)


def masked_softmax(scores: jax.Array, mask: jax.Array, *, axis: int = -1) -> jax.Array:
    """Softmax over `axis` among the True of `mask`, 0 elsewhere; equal shares where nothing counts."""
    return jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=axis)


def masked_variance(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Biased variance of `values` where `mask`."""
    values = jnp.where(mask, values, 0.0)  # else a NaN that is masked would reach the gradient
    return masked_mean(jnp.square(values - masked_mean(values, mask)), mask)


def whiten(values: jax.Array, mask: jax.Array, *, shift_mean: bool = True, eps: float = 1e-8) -> jax.Array:
    """Scales `values` to unit variance over `mask`; with `shift_mean` to zero mean too; 0 outside.

    Matches TRL's `masked_whiten`, but for the biased variance.
    """
    values = jnp.where(mask, values, 0.0)
    mean = masked_mean(values, mask)
    scaled = (values - mean) * jax.lax.rsqrt(masked_variance(values, mask) + eps)
    return jnp.where(mask, scaled if shift_mean else scaled + mean, 0.0)


def token_logprobs(logits_BxTxV: jax.Array, ids_BxT: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    """Log-probability of each id, float32, 0 where the mask is False.

    Logits at masked positions are set to zero before the logarithm: an infinite or NaN logit there can
    reach neither the value nor the gradient.
    """
    logits_BxTxV = jnp.where(mask_BxT[..., None], logits_BxTxV.astype(jnp.float32), 0.0)
    chosen_BxT = jnp.take_along_axis(logits_BxTxV, ids_BxT[..., None], axis=-1)[..., 0]
    logprobs_BxT = chosen_BxT - jax.nn.logsumexp(logits_BxTxV, axis=-1)
    return jnp.where(mask_BxT, logprobs_BxT, 0.0)


def token_entropy(logits_BxTxV: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    """Entropy of each position's distribution in nats, float32, 0 where the mask is False."""
    logits_BxTxV = jnp.where(mask_BxT[..., None], logits_BxTxV.astype(jnp.float32), 0.0)
    logprobs_BxTxV = jax.nn.log_softmax(logits_BxTxV, axis=-1)
    return jnp.where(mask_BxT, -jnp.sum(jnp.exp(logprobs_BxTxV) * logprobs_BxTxV, axis=-1), 0.0)


def up_to_end(ids_BxT: jax.Array, end_id: int) -> jax.Array:
    """Mask of the tokens up to and including the first `end_id` of each row."""
    is_end_BxT = (ids_BxT == end_id).astype(jnp.int32)
    return jnp.cumsum(is_end_BxT, axis=-1) - is_end_BxT == 0
