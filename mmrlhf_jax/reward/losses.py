"""Losses that teach a reward from judgements."""

import jax
import jax.numpy as jnp


def bradley_terry_loss(chosen_B: jax.Array, rejected_B: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Negative log-likelihood of each preference, (B,) in nats (Bradley, Terry 1952; Ouyang et al. 2022).

    -(1 - eps) log sigmoid(r_chosen - r_rejected) - eps log sigmoid(r_rejected - r_chosen)

    With label smoothing eps, a rater is taken to err with that probability, so confident margins are not
    driven to infinity.
    """
    margin_B = chosen_B - rejected_B
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(margin_B) - label_smoothing * jax.nn.log_sigmoid(
        -margin_B
    )


def centering_loss(chosen_B: jax.Array, rejected_B: jax.Array) -> jax.Array:
    """(r_chosen + r_rejected)^2, (B,): keeps rewards near zero.

    Eisenstein et al. 2023, arXiv:2312.09244; weighted by TRL's `center_rewards_coefficient`.
    """
    return jnp.square(chosen_B + rejected_B)
