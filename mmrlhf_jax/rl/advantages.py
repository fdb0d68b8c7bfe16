"""Advantage estimators."""

import jax
import jax.numpy as jnp


def gae(
    rewards_BxT: jax.Array,
    values_BxT: jax.Array,
    mask_BxT: jax.Array,
    *,
    gamma: jax.Array | float,
    lam: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1},  return_t = A_t + V_t

    for t = T-1 .. 0, with V and A zero after a row's last real token: a completion ends, it is not cut.

    Returns:
      (advantages_BxT, returns_BxT), both 0 where masked, both without gradient.
    """
    values_BxT = jnp.where(mask_BxT, values_BxT, 0.0)
    next_values_BxT = jnp.pad(values_BxT[:, 1:], ((0, 0), (0, 1)))
    deltas_BxT = jnp.where(mask_BxT, rewards_BxT + gamma * next_values_BxT - values_BxT, 0.0)

    def backwards(advantage_B: jax.Array, delta_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        advantage_B = delta_B + gamma * lam * advantage_B
        return advantage_B, advantage_B

    start_B = jnp.zeros_like(deltas_BxT[:, 0])
    _, advantages_TxB = jax.lax.scan(backwards, start_B, deltas_BxT.T, reverse=True)
    advantages_BxT = jnp.where(mask_BxT, advantages_TxB.T, 0.0)
    return jax.lax.stop_gradient((advantages_BxT, advantages_BxT + values_BxT))
