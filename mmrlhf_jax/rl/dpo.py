"""Direct preference optimisation: preferences teach the policy itself, without a reward model or sampling."""

import jax
import jax.numpy as jnp

from mmrlhf_jax.rl.algorithm import DPOLossName


def dpo_loss(
    chosen_B: jax.Array,
    rejected_B: jax.Array,
    beta: jax.Array | float,
    *,
    kind: DPOLossName = "sigmoid",
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Loss of each preference, (B,), with h = chosen - rejected.

      sigmoid  -(1 - eps) log sigmoid(beta h) - eps log sigmoid(-beta h)
               Rafailov et al. 2023, arXiv:2305.18290, eq. 7; eps: Mitchell 2023, "cDPO"
      ipo      (h - 1 / (2 beta))^2     Azar et al. 2023, arXiv:2310.12036, eq. 17
      hinge    max(0, 1 - beta h)       Zhao et al. 2023, arXiv:2305.10425, with the reference in the margin

    beta log-ratio is the reward under which the policy is optimal; beta weighs its KL to the reference.

    Args:
      chosen_B: log p(y) - log p_ref(y) of the chosen answers, whole, in nats; so `rejected_B`. (For ipo TRL
        divides both by the answers' lengths; the paper does not.)
      label_smoothing: eps, the share of preferences taken to be wrong; of "sigmoid" alone.
    """
    margin_B = chosen_B - rejected_B
    if kind == "ipo":
        return jnp.square(margin_B - 1.0 / (2.0 * beta))
    if kind == "hinge":
        return jax.nn.relu(1.0 - beta * margin_B)
    right_B, wrong_B = jax.nn.log_sigmoid(beta * margin_B), jax.nn.log_sigmoid(-beta * margin_B)
    return -(1.0 - label_smoothing) * right_B - label_smoothing * wrong_B
