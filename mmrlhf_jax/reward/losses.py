"""Losses that teach a reward from comparisons and from single verdicts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def bradley_terry_loss(
    chosen_B: jax.Array,
    rejected_B: jax.Array,
    label_smoothing: float = 0.0,
    margin_B: jax.Array | float = 0.0,
) -> jax.Array:
    """Negative log-likelihood of each preference, (B,) in nats (Bradley, Terry 1952; Ouyang et al. 2022).

    -(1 - eps) log sigmoid(d) - eps log sigmoid(-d),  d = r_chosen - r_rejected - m

    With label smoothing eps, a rater is taken to err with that probability, so confident margins are not
    driven to infinity. The margin m asks for more distance where the rater was surer (Touvron et al. 2023,
    "Llama 2", arXiv:2307.09288, equation 2; TRL's column `margin`).
    """
    distance_B = chosen_B - rejected_B - margin_B
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(distance_B) - label_smoothing * jax.nn.log_sigmoid(
        -distance_B
    )


class Outcomes(NamedTuple):
    """Log-probabilities of what a rater may say of two answers, (B,) each; their exponentials sum to 1."""

    first_B: jax.Array
    second_B: jax.Array
    tie_B: jax.Array


def rao_kupper(difference_B: jax.Array, log_theta: jax.Array | float) -> Outcomes:
    """Comparisons with a threshold: who sees less than log theta between two answers, calls it a tie.

    P(first) = sigmoid(d - log theta),  P(second) = sigmoid(-d - log theta),
    P(tie)   = (theta^2 - 1) P(first) P(second),  d = r_first - r_second

    Args:
      difference_B: d.
      log_theta: above 0. Near 0 ties are ever less likely, at 0 the model is Bradley-Terry's.

    Source: Rao, Kupper 1967, "Ties in Paired-Comparison Experiments: A Generalization of the Bradley-Terry
      Model".
    """
    log_theta = jnp.maximum(log_theta, 1e-6)  # the gradient of a tie at 0 is infinite
    first_B = jax.nn.log_sigmoid(difference_B - log_theta)
    second_B = jax.nn.log_sigmoid(-difference_B - log_theta)
    # log(theta^2 - 1), without theta^2, which may be too large a number
    log_odds = 2 * log_theta + jnp.log(-jnp.expm1(-2 * log_theta))
    return Outcomes(first_B, second_B, log_odds + first_B + second_B)


def davidson(difference_B: jax.Array, log_nu: jax.Array | float) -> Outcomes:
    """Comparisons with ties whose chance is the geometric mean of the two answers', times nu.

    P(first) : P(second) : P(tie) = exp(d / 2) : exp(-d / 2) : nu,  d = r_first - r_second

    Unlike Rao and Kupper's, the odds of first against second are Bradley-Terry's whatever nu is.

    Args:
      difference_B: d.
      log_nu: any number; of two equal answers a tie is nu times as likely as either.

    Source: Davidson 1970, "On Extending the Bradley-Terry Model to Accommodate Ties in Paired Comparison
      Experiments".
    """
    tie_B = jnp.broadcast_to(jnp.asarray(log_nu, difference_B.dtype), difference_B.shape)
    first_B, second_B, tie_B = jax.nn.log_softmax(
        jnp.stack([difference_B / 2, -difference_B / 2, tie_B]), axis=0
    )
    return Outcomes(first_B, second_B, tie_B)


def outcome_loss(outcomes: Outcomes, tie_B: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Negative log-likelihood (B,) of ties where `tie_B`, and of the first answer elsewhere, in nats.

    Args:
      tie_B: bool; elsewhere the first answer is the one that was chosen.
      label_smoothing: the share of decided judgements that are taken to mean the other answer.
    """
    decided_B = (1 - label_smoothing) * outcomes.first_B + label_smoothing * outcomes.second_B
    return -jnp.where(tie_B, outcomes.tie_B, decided_B)


def label_loss(
    reward_B: jax.Array, label_B: jax.Array, threshold: jax.Array | float, label_smoothing: float = 0.0
) -> jax.Array:
    """Negative log-likelihood (B,) of a thumb up or down for a single answer, in nats: logistic regression.

    -(1 - eps) log sigmoid(s) - eps log sigmoid(-s),  s = +-(reward - threshold), + where the thumb is up

    Args:
      label_B: bool, True for a thumb up.
      threshold: the reward at which a thumb is as likely up as down: a learned number, or `batch_threshold`.
    """
    surplus_B = jnp.where(label_B, reward_B - threshold, threshold - reward_B)
    return bradley_terry_loss(surplus_B, jnp.zeros_like(surplus_B), label_smoothing)


def batch_threshold(reward_B: jax.Array) -> jax.Array:
    """The mean reward of a batch as a threshold, without gradient.

    The point of reference moves with the rewards, as in KTO (Ethayarajh et al. 2024, arXiv:2402.01306), but
    no reference policy takes part. It fits where thumbs up and down are about equally many.
    """
    return jax.lax.stop_gradient(jnp.mean(reward_B))


def centering_loss(chosen_B: jax.Array, rejected_B: jax.Array) -> jax.Array:
    """(r_chosen + r_rejected)^2, (B,): keeps rewards near zero.

    Eisenstein et al. 2023, arXiv:2312.09244; weighted by TRL's `center_rewards_coefficient`.
    """
    return jnp.square(chosen_B + rejected_B)
