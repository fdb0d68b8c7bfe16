"""Losses of policy and critic, one number a token, and how they become one number."""

import jax
import jax.numpy as jnp

from mmrlhf_jax.masked import masked_sum, row_mean
from mmrlhf_jax.rl.algorithm import MeanName


def ppo_clip_loss(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    clip: jax.Array | float,
    dual_clip: jax.Array | float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7), elementwise.

    rho = exp(logp - logp_old),  loss = -min(rho A, clip(rho, 1 - clip, 1 + clip) A)

    Args:
      dual_clip: c > 1 bounds the loss where A < 0 by -c A, however far rho has grown
        (Ye et al. 2020, arXiv:1912.09729, eq. 5): loss = -max(min(...), c A). None: no bound.

    Returns:
      (loss, rho).
    """
    ratio = jnp.exp(logprobs - old_logprobs)
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    gain = jnp.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        gain = jnp.where(advantages < 0, jnp.maximum(gain, dual_clip * advantages), gain)
    return -gain, ratio


def policy_gradient_loss(logprobs: jax.Array, advantages: jax.Array) -> jax.Array:
    """-A log p, elementwise: its gradient is the policy gradient's (Williams 1992; Mnih et al. 2016)."""
    return -advantages * logprobs


def sequence_logprobs(logprobs_BxT: jax.Array, old_logprobs_BxT: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    """Log of GSPO's ratio s = (p(y) / p_old(y))^(1/|y|), the same at each token (arXiv:2507.18071, eq. 7)."""
    log_ratio_B = row_mean(logprobs_BxT - old_logprobs_BxT, mask_BxT)
    return jnp.where(mask_BxT, log_ratio_B[:, None], 0.0)


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


def mean_parts(values_BxT: jax.Array, mask_BxT: jax.Array, mean: MeanName) -> tuple[jax.Array, jax.Array]:
    """(sum, weight) of the mean over a batch's tokens; those of several batches add up.

    token     every token counts the same: sum / tokens
    sequence  every completion counts the same: mean over rows of the row's mean (GRPO, eq. 3)
    constant  sum / (rows x T), whatever the lengths: no completion gains by being long (Dr. GRPO)
    """
    rows, slots = mask_BxT.shape
    if mean == "token":
        return masked_sum(values_BxT, mask_BxT)
    if mean == "sequence":
        return jnp.sum(row_mean(values_BxT, mask_BxT)), jnp.asarray(float(rows))
    return masked_sum(values_BxT, mask_BxT)[0], jnp.asarray(float(rows * slots))
