"""Losses of policy and critic, one number a token; the caller takes the masked mean."""

import jax
import jax.numpy as jnp


def ppo_clip_loss(
    logprobs: jax.Array, old_logprobs: jax.Array, advantages: jax.Array, clip: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7), elementwise.

    rho = exp(logp - logp_old),  loss = -min(rho A, clip(rho, 1 - clip, 1 + clip) A)

    Returns:
      (loss, rho).
    """
    ratio = jnp.exp(logprobs - old_logprobs)
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    return -jnp.minimum(ratio * advantages, clipped * advantages), ratio


def clipped_value_loss(
    values: jax.Array, old_values: jax.Array, returns: jax.Array, clip: jax.Array | float
) -> jax.Array:
    """Half the squared error, where moving further than `clip` from the old value earns nothing, elementwise.

    loss = 1/2 max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2)

    As in OpenAI's baselines; an infinite `clip` gives the plain squared error.
    """
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    return 0.5 * jnp.maximum(jnp.square(values - returns), jnp.square(near - returns))


def approx_kl(logprobs: jax.Array, old_logprobs: jax.Array) -> jax.Array:
    """1/2 (logp - logp_old)^2, elementwise: TRL's `approxkl`, how far the update has moved the policy."""
    return 0.5 * jnp.square(logprobs - old_logprobs)
