"""Advantage estimators."""

import jax
import jax.numpy as jnp

from mmrlhf_jax.masked import masked_mean
from mmrlhf_jax.rl.algorithm import AdvantageName


def estimate_advantages(
    name: AdvantageName,
    rewards_BxT: jax.Array,
    values_BxT: jax.Array,
    mask_BxT: jax.Array,
    *,
    gamma: jax.Array | float,
    lam: jax.Array | float,
    group: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Advantages and returns (B, T) by the estimator `name`, 0 where masked, without gradient.

    G_t = r_t + gamma G_{t+1} is the return to go, R = sum_t r_t a completion's whole reward.

      gae            A_t = delta_t + gamma lam A_{t+1}      Schulman et al. 2016
      returns        A_t = G_t - V_t                        Mnih et al. 2016, arXiv:1602.01783, to the end
      batch_mean     A_t = G_t - mean of G_0 over the batch Williams 1992
      leave_one_out  A = R - mean of the group's others     Ahmadian et al. 2024, arXiv:2402.14740
      group          A = (R - mean) / std of the group      Shao et al. 2024
      group_centred  A = R - mean of the group              Liu et al. 2025 (Dr. GRPO)

    The last three give every token of a completion the same advantage.

    Args:
      group: completions of one prompt; rows of one group follow each other.
    """
    if name == "gae":
        return gae(rewards_BxT, values_BxT, mask_BxT, gamma=gamma, lam=lam)
    returns_BxT = returns_to_go(rewards_BxT, mask_BxT, gamma=gamma)
    if name == "returns":
        advantages_BxT = returns_BxT - values_BxT
    elif name == "batch_mean":
        advantages_BxT = returns_BxT - masked_mean(returns_BxT[:, 0], mask_BxT[:, 0])
    else:
        total_B = jnp.sum(jnp.where(mask_BxT, rewards_BxT, 0.0), axis=1)
        if name == "leave_one_out":
            advantages_B = leave_one_out(total_B, group)
        else:
            advantages_B = group_relative(total_B, group, scale=name == "group")
        advantages_BxT = jnp.broadcast_to(advantages_B[:, None], mask_BxT.shape)
    return jax.lax.stop_gradient((jnp.where(mask_BxT, advantages_BxT, 0.0), returns_BxT))


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
    advantages_BxT = jnp.where(mask_BxT, _discounted(deltas_BxT, gamma * lam), 0.0)
    return jax.lax.stop_gradient((advantages_BxT, advantages_BxT + values_BxT))


def returns_to_go(rewards_BxT: jax.Array, mask_BxT: jax.Array, *, gamma: jax.Array | float) -> jax.Array:
    """G_t = r_t + gamma G_{t+1} for t = T-1 .. 0, (B, T), 0 where masked (Sutton, Barto 2018, eq. 3.9)."""
    rewards_BxT = jnp.where(mask_BxT, rewards_BxT, 0.0)
    return jnp.where(mask_BxT, _discounted(rewards_BxT, gamma), 0.0)


def group_relative(scores_B: jax.Array, group: int, *, scale: bool, eps: float = 1e-4) -> jax.Array:
    """A = (R - mean) / (std + eps) within groups of `group` rows (Shao et al. 2024, arXiv:2402.03300, 4.1.2).

    Without `scale`, A = R - mean: dividing by the spread makes prompts on which all completions are nearly
    alike count as much as the others (Liu et al. 2025, arXiv:2503.20783, section 3). The spread is the
    unbiased one, and eps that of TRL.
    """
    scores_GxK = scores_B.reshape(-1, group)
    centred_GxK = scores_GxK - jnp.mean(scores_GxK, axis=1, keepdims=True)
    if scale:
        centred_GxK = centred_GxK / (jnp.std(scores_GxK, axis=1, keepdims=True, ddof=1) + eps)
    return centred_GxK.reshape(-1)


def leave_one_out(scores_B: jax.Array, group: int) -> jax.Array:
    """A_i = R_i - mean of the group's other R_j (Kool et al. 2019; Ahmadian et al. 2024, sec. 3.4)."""
    scores_GxK = scores_B.reshape(-1, group)
    others_GxK = (jnp.sum(scores_GxK, axis=1, keepdims=True) - scores_GxK) / (group - 1)
    return (scores_GxK - others_GxK).reshape(-1)


def _discounted(values_BxT: jax.Array, discount: jax.Array | float) -> jax.Array:
    """y_t = x_t + discount y_{t+1}, (B, T)."""

    def backwards(following_B: jax.Array, value_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        following_B = value_B + discount * following_B
        return following_B, following_B

    _, discounted_TxB = jax.lax.scan(backwards, jnp.zeros_like(values_BxT[:, 0]), values_BxT.T, reverse=True)
    return discounted_TxB.T
