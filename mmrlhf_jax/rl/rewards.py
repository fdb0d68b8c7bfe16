"""From one score a completion to one reward a token."""

import jax
import jax.numpy as jnp


def token_rewards(
    scores_B: jax.Array, kl_BxT: jax.Array, mask_BxT: jax.Array, kl_coef: jax.Array | float
) -> jax.Array:
    """-kl_coef * kl at every real token, the score at the last one (Ouyang et al. 2022, eq. 2). (B, T)."""
    length = jnp.sum(mask_BxT, axis=1)
    is_last_BxT = jnp.arange(mask_BxT.shape[1])[None] == (length - 1)[:, None]
    return jnp.where(mask_BxT, -kl_coef * kl_BxT, 0.0) + jnp.where(is_last_BxT, scores_B[:, None], 0.0)


def penalise_missing_end(scores_B: jax.Array, ended_B: jax.Array, penalty: jax.Array | float) -> jax.Array:
    """Takes a fixed penalty off completions that were cut before their end token."""
    return jnp.where(ended_B, scores_B, scores_B - penalty)
