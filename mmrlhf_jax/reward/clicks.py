"""Losses that teach a reward from clicks in shown lists, each click weighted by how rarely it could happen.

Who is shown a list clicks on what is good, and on what stands high: an answer that is not examined is never
clicked. Weighting a click at a position by one over the chance that the position is examined, its propensity,
makes the expected loss that of full information (Joachims, Swaminathan, Schnabel 2017, arXiv:1608.04468).
"""

import jax
import jax.numpy as jnp

from mmrlhf_jax.masked import masked_mean


def click_weights(
    clicked_BxS: jax.Array, propensity_BxS: jax.Array, *, least: float = 0.0, self_normalise: bool = False
) -> jax.Array:
    """Weight (B, S) of each click, 0 where there was none: 1 / max(propensity, least).

    Args:
      clicked_BxS: bool.
      propensity_BxS: chance that the position is examined, above 0; only ratios between positions matter for
        the order that is learned.
      least: clips propensities from below: bounds the variance that a click at the end of a long list brings
        in, at the price of some bias.
      self_normalise: divides by the mean weight of the batch's clicks (Swaminathan, Joachims 2015, "The
        self-normalized estimator for counterfactual learning"), so that the loss keeps the size that it has
        without weights.
    """
    weight_BxS = jnp.where(clicked_BxS, 1 / jnp.maximum(propensity_BxS, least), 0.0)
    if self_normalise:
        mean = masked_mean(weight_BxS, clicked_BxS)
        weight_BxS = weight_BxS / jnp.where(mean > 0, mean, 1.0)
    return weight_BxS


def softmax_click_loss(reward_BxS: jax.Array, weight_BxS: jax.Array, shown_BxS: jax.Array) -> jax.Array:
    """- sum over clicks of weight x log softmax(rewards of the list), (B,) in nats.

    Args:
      weight_BxS: of each click, as `click_weights` gives it.
      shown_BxS: bool, False where a list is shorter than S; each list shows something.

    Source: the attention-based loss of Ai et al. 2018, arXiv:1804.05938, section 3.
    """
    logprob_BxS = jax.nn.log_softmax(jnp.where(shown_BxS, reward_BxS, -1e30), axis=-1)
    return -jnp.sum(jnp.where(shown_BxS, weight_BxS * logprob_BxS, 0.0), axis=-1)


def pairwise_click_loss(reward_BxS: jax.Array, weight_BxS: jax.Array, shown_BxS: jax.Array) -> jax.Array:
    """- sum over clicks k and the other answers j of their list of weight_k log sigmoid(r_k - r_j), (B,).

    A bound on the rank of what is clicked. Arguments as in `softmax_click_loss`.

    Source: Propensity SVM-Rank of Joachims et al. 2017, arXiv:1608.04468, section 5, with the logistic in
      place of the hinge.
    """
    # NaN beyond the list's end must not reach the gradient
    reward_BxS = jnp.where(shown_BxS, reward_BxS, 0.0)
    against_BxSxS = jax.nn.log_sigmoid(reward_BxS[:, :, None] - reward_BxS[:, None, :])
    other_BxSxS = shown_BxS[:, None, :] & ~jnp.eye(reward_BxS.shape[1], dtype=bool)[None]
    each_BxS = jnp.sum(jnp.where(other_BxSxS, against_BxSxS, 0.0), axis=-1)
    return -jnp.sum(jnp.where(shown_BxS, weight_BxS * each_BxS, 0.0), axis=-1)
